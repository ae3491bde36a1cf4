use std::path::PathBuf;

use pitr::api::{ApiErrorKind, BackupPhase, BackupState};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;

use super::*;
use crate::output::job::tests::job;

/// Reads one request to the end of its body and answers with `answer`; gives back what it read.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: String) -> String {
    let mut request = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let read = stream.read(&mut buffer).await.unwrap();
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let length = text
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .map_or(0, |length| length.trim().parse::<usize>().unwrap());
        if read == 0 || text.find("\r\n\r\n").is_some_and(|end| request.len() >= end + 4 + length) {
            break;
        }
    }
    stream.write_all(answer.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    String::from_utf8(request).unwrap()
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

struct Agent {
    client: AgentClient,
    request: JoinHandle<String>,
    _directory: tempfile::TempDir,
}

fn agent(answer: String) -> Agent {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let request = tokio::spawn(async move { serve(listener.accept().await.unwrap().0, answer).await });
    Agent { client: AgentClient::new(AgentAddress::Socket(path), None), request, _directory: directory }
}

#[tokio::test]
async fn sends_json_over_the_socket_and_reads_the_answer() {
    let complete = job(BackupState::Complete, BackupPhase::Finishing);
    let agent = agent(answer("202 Accepted", &serde_json::to_string(&complete).unwrap()));
    let request = BackupRequest { who: Some("me@here".to_owned()), fresh: true };
    assert_eq!(agent.client.start_backup(&request).await.unwrap(), complete);
    let request = agent.request.await.unwrap();
    assert!(request.starts_with("POST /v1/backups HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("{\"who\":\"me@here\",\"fresh\":true}"), "{request}");
    assert!(!request.contains("authorization"), "{request}");
}

#[tokio::test]
async fn sends_the_token_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = AgentAddress::Tcp(listener.local_addr().unwrap().to_string());
    let complete = serde_json::to_string(&job(BackupState::Complete, BackupPhase::Finishing)).unwrap();
    let request =
        tokio::spawn(async move { serve(listener.accept().await.unwrap().0, answer("200 OK", &complete)).await });
    let client = AgentClient::new(address, Some(Secret::new("t0ken".to_owned())));
    client.current_backup().await.unwrap();
    assert!(request.await.unwrap().contains("authorization: Bearer t0ken\r\n"));
}

#[tokio::test]
async fn keeps_the_words_of_a_refusal() {
    let body = r#"{"kind":"conflict","message":"a backup is running","hint":"wait for it"}"#;
    let agent = agent(answer("409 Conflict", body));
    let error = agent.client.start_backup(&BackupRequest::default()).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), error.hint().as_deref()), ("a backup is running", Some("wait for it")));
    assert!(matches!(error, AgentError::Refused { error, .. } if error.kind == ApiErrorKind::Conflict));
}

#[tokio::test]
async fn says_when_something_else_answers() {
    for body in ["<html>\u{1b}[2J</html>", "{}"] {
        let agent = agent(answer("404 Not Found", body));
        let error = agent.client.status().await.unwrap_err();
        assert!(matches!(error, AgentError::Senseless { .. }), "{error:?}");
        assert!(!error.to_string().contains('\u{1b}'));
    }
    let agent = agent(answer("200 OK", "{}"));
    assert!(matches!(agent.client.status().await, Err(AgentError::Senseless { .. })));
}

#[tokio::test]
async fn says_when_the_connection_breaks() {
    let agent = agent(String::new());
    assert!(matches!(agent.client.status().await, Err(AgentError::Broken { .. })));
}

#[tokio::test]
async fn says_when_nobody_listens() {
    let directory = tempfile::tempdir().unwrap();
    let client = AgentClient::new(AgentAddress::Socket(directory.path().join("none.sock")), None);
    let error = client.status().await.unwrap_err();
    assert!(error.is_unreachable(), "{error:?}");
    assert!(error.hint().unwrap().contains("check that the agent runs"));
}

#[tokio::test(start_paused = true)]
async fn does_not_wait_for_ever() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let client = AgentClient::new(AgentAddress::Socket(path), None);
    assert!(matches!(client.status().await, Err(AgentError::NoAnswer { .. })));
}
