//! Against a server that answers what the test says: what goes over the line, and what is made of each answer.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

use super::super::options::{Checksums, S3Credentials, ServerSideEncryption};
use super::super::{ErrorKind, ObjectStoreExt, RetryOptions, VersionTag};
use super::*;

#[derive(Clone, Debug)]
struct Request {
    method: String,
    target: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Clone, Debug)]
enum Answer {
    Full(u16, Vec<(&'static str, String)>, String),
    /// Announces so many bytes and closes before they are all there.
    Truncated(usize, Vec<(&'static str, String)>, String),
    Silence,
    Reset,
}

fn ok(headers: &[(&'static str, &str)], body: &str) -> Answer {
    Answer::Full(200, own(headers), body.to_owned())
}

fn own(headers: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
    headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect()
}

fn refusal(status: u16, code: &str) -> Answer {
    Answer::Full(status, Vec::new(), format!("<Error><Code>{code}</Code><Message>because</Message></Error>"))
}

const OBJECT: [(&str, &str); 2] = [("ETag", "\"tag\""), ("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")];

type Script = Box<dyn Fn(usize, &Request) -> Answer + Send + Sync>;

struct Server {
    endpoint: String,
    seen: Arc<Mutex<Vec<Request>>>,
    _task: AbortOnDropHandle<()>,
}

impl Server {
    /// The script gets the number of the request, from 0, and the request.
    async fn start(script: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(accept(listener, Arc::new(Box::new(script) as Script), Arc::clone(&seen)));
        Self { endpoint, seen, _task: AbortOnDropHandle::new(task) }
    }

    fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    async fn store(&self, options: S3Options) -> S3Store {
        let credentials = S3Credentials {
            access_key_id: "key".to_owned(),
            secret_access_key: "secret".to_owned().into(),
            session_token: None,
        };
        let options = S3Options {
            endpoint: Some(self.endpoint.clone()),
            region: Some("nowhere-1".to_owned()),
            path_style: true,
            credentials: Some(credentials),
            ..options
        };
        let policy = RetryPolicy::new(RetryOptions {
            base: Duration::from_millis(1),
            deadline: Duration::from_secs(20),
            ..RetryOptions::default()
        });
        S3Store::open("bucket", &options, policy).await.unwrap()
    }
}

async fn accept(listener: TcpListener, script: Arc<Script>, seen: Arc<Mutex<Vec<Request>>>) {
    let mut connections = JoinSet::new();
    let count = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        connections.spawn(serve(stream, Arc::clone(&script), Arc::clone(&seen), Arc::clone(&count)));
    }
}

async fn serve(stream: TcpStream, script: Arc<Script>, seen: Arc<Mutex<Vec<Request>>>, count: Arc<AtomicUsize>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read_request(&mut stream).await {
        let number = count.fetch_add(1, Ordering::SeqCst);
        let answer = script(number, &request);
        let is_head = request.method == "HEAD";
        seen.lock().unwrap().push(request);
        let (status, headers, body, announced, goes_on) = match answer {
            Answer::Full(status, headers, body) => (status, headers, body.clone(), body.len(), true),
            Answer::Truncated(announced, headers, body) => (200, headers, body, announced, false),
            Answer::Silence => std::future::pending().await,
            Answer::Reset => return,
        };
        let mut head = format!("HTTP/1.1 {status} X\r\n");
        for (name, value) in &headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !headers.iter().any(|(name, _)| *name == "Content-Length") {
            head += &format!("Content-Length: {announced}\r\n");
        }
        head += "\r\n";
        if !is_head {
            head += &body;
        }
        if stream.write_all(head.as_bytes()).await.is_err() || stream.flush().await.is_err() || !goes_on {
            return;
        }
    }
}

async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request { method, target, headers, body })
}

fn key() -> ObjectKey {
    ObjectKey::new("some/key").unwrap()
}

async fn kind_of_get(answer: Answer) -> ErrorKind {
    let server = Server::start(move |_, _| answer.clone()).await;
    server.store(S3Options::default()).await.get(&key(), None).await.unwrap_err().kind()
}

#[tokio::test]
async fn put_carries_all_that_the_options_ask_for_and_no_trailer() {
    let server = Server::start(|_, _| ok(&OBJECT, "")).await;
    let options = S3Options {
        encryption: ServerSideEncryption::Kms { key_id: Some("key-id".to_owned()) },
        storage_class: Some("STANDARD_IA".to_owned()),
        tags: vec![("team".to_owned(), "a b".to_owned())],
        ..S3Options::default()
    };
    let store = server.store(options).await;
    let meta =
        store.put(&key(), Payload::Chunks(vec!["1234".into(), "56789".into()]), PutMode::CreateNew).await.unwrap();
    assert_eq!((meta.tag, meta.size_bytes), (VersionTag::new("tag"), 9));
    store.put_bytes(&key(), "x", PutMode::Replace(VersionTag::new("old"))).await.unwrap();
    store.put_bytes(&key(), "x", PutMode::Overwrite).await.unwrap();
    let [create, replace, overwrite] = &server.requests()[..] else { panic!("{:?}", server.requests()) };
    assert!(create.target.starts_with("/bucket/some/key"));
    assert_eq!(create.body, b"123456789");
    for (name, value) in [
        ("content-length", "9"),
        ("x-amz-checksum-crc32c", "4waSgw=="),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
        ("x-amz-server-side-encryption", "aws:kms"),
        ("x-amz-server-side-encryption-aws-kms-key-id", "key-id"),
        ("x-amz-storage-class", "STANDARD_IA"),
        ("x-amz-tagging", "team=a%20b"),
        ("if-none-match", "*"),
        ("if-match", ""),
        ("x-amz-trailer", ""),
        ("content-encoding", ""),
        ("transfer-encoding", ""),
    ] {
        assert_eq!(create.header(name), value, "{name}");
    }
    assert_eq!((replace.header("if-match"), replace.header("if-none-match")), ("\"old\"", ""));
    assert_eq!((overwrite.header("if-match"), overwrite.header("if-none-match")), ("", ""));
}

#[tokio::test]
async fn checksums_can_be_off_and_can_be_demanded() {
    let server = Server::start(|_, _| ok(&OBJECT, "")).await;
    let off = server.store(S3Options { checksums: Checksums::Off, ..S3Options::default() }).await;
    off.create_bytes(&key(), "x").await.unwrap();
    let names = server.requests()[0].headers.keys().filter(|name| name.contains("checksum")).count();
    assert_eq!(names, 0, "{:?}", server.requests()[0]);
    let required = server.store(S3Options { checksums: Checksums::Required, ..S3Options::default() }).await;
    assert_eq!(required.create_bytes(&key(), "x").await.unwrap_err().kind(), ErrorKind::Invalid);
    let lying = Server::start(|_, _| ok(&[OBJECT[0], ("x-amz-checksum-crc32c", "AAAAAA==")], "")).await;
    let store = lying.store(S3Options::default()).await;
    assert_eq!(store.create_bytes(&key(), "x").await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn answers_to_a_get_have_their_kinds() {
    for (answer, kind) in [
        (refusal(404, "NoSuchKey"), ErrorKind::NotFound),
        (refusal(404, "NoSuchBucket"), ErrorKind::NoContainer),
        (Answer::Full(404, Vec::new(), "<html>not here</html>".to_owned()), ErrorKind::Transient),
        (Answer::Full(404, Vec::new(), String::new()), ErrorKind::Transient),
        (refusal(403, "AccessDenied"), ErrorKind::Denied),
        (refusal(403, "InvalidObjectState"), ErrorKind::Invalid),
        (refusal(503, "SlowDown"), ErrorKind::Transient),
        (Answer::Full(500, Vec::new(), String::new()), ErrorKind::Transient),
        (refusal(507, "InsufficientStorage"), ErrorKind::Full),
        (Answer::Reset, ErrorKind::Transient),
    ] {
        let text = format!("{answer:?}");
        assert_eq!(kind_of_get(answer).await, kind, "{text}");
    }
}

#[tokio::test]
async fn answers_to_a_put_have_their_kinds() {
    let replace = PutMode::Replace(VersionTag::new("old"));
    for (answer, mode, kind) in [
        (refusal(412, "PreconditionFailed"), PutMode::CreateNew, ErrorKind::AlreadyExists),
        (refusal(412, "PreconditionFailed"), replace.clone(), ErrorKind::Changed),
        (refusal(404, "NoSuchKey"), replace.clone(), ErrorKind::Changed),
        (refusal(404, "NoSuchBucket"), PutMode::CreateNew, ErrorKind::NoContainer),
        (refusal(404, "NoSuchBucket"), replace, ErrorKind::NoContainer),
        (refusal(409, "ConditionalRequestConflict"), PutMode::CreateNew, ErrorKind::Transient),
        (refusal(400, "BadDigest"), PutMode::Overwrite, ErrorKind::Transient),
        (refusal(403, "QuotaExceeded"), PutMode::Overwrite, ErrorKind::Full),
        (refusal(501, "NotImplemented"), PutMode::CreateNew, ErrorKind::Invalid),
        (ok(&[], ""), PutMode::CreateNew, ErrorKind::Invalid),
    ] {
        let text = format!("{answer:?} {mode:?}");
        let server = Server::start(move |_, _| answer.clone()).await;
        let store = server.store(S3Options::default()).await;
        assert_eq!(store.put_bytes(&key(), "x", mode).await.unwrap_err().kind(), kind, "{text}");
        assert_eq!(server.requests().len(), 1, "the SDK tried again: {text}");
    }
}

#[tokio::test]
async fn missing_object_and_missing_bucket_are_told_apart_after_a_head() {
    for (bucket_status, kind) in [
        (200, ErrorKind::NotFound),
        (403, ErrorKind::NotFound),
        (404, ErrorKind::NoContainer),
        (500, ErrorKind::Transient),
        (301, ErrorKind::Invalid),
    ] {
        let server = Server::start(move |_, request| {
            let status = if request.target.contains("some/key") { 404 } else { bucket_status };
            Answer::Full(status, Vec::new(), String::new())
        })
        .await;
        let store = server.store(S3Options::default()).await;
        assert_eq!(store.head(&key()).await.unwrap_err().kind(), kind, "bucket answers {bucket_status}");
    }
}

#[tokio::test]
async fn body_that_ends_early_is_transient() {
    let server = Server::start(|_, _| Answer::Truncated(10, own(&OBJECT), "12345".to_owned())).await;
    let store = server.store(S3Options::default()).await;
    assert_eq!(store.get_bytes(&key(), 100).await.unwrap_err().kind(), ErrorKind::Transient);
}

#[tokio::test]
async fn range_has_to_be_the_one_that_was_asked_for() {
    let range = ByteRange::new(2, 5).unwrap();
    let part = |text: &str, body: &str| {
        let headers = own(&[OBJECT[0], OBJECT[1], ("Content-Range", text)]);
        Answer::Full(206, headers, body.to_owned())
    };
    for (answer, expected) in [
        (part("bytes 2-4/10", "cde"), Ok(10)),
        (part("bytes 0-2/10", "abc"), Err(ErrorKind::Transient)),
        (part("bytes 2-3/4", "cd"), Err(ErrorKind::Invalid)),
        (part("bytes 2-4/10", "cd"), Err(ErrorKind::Transient)),
        (part("bytes x", "cde"), Err(ErrorKind::Invalid)),
        (ok(&OBJECT, "abcdefghij"), Err(ErrorKind::Invalid)),
        (refusal(416, "InvalidRange"), Err(ErrorKind::Invalid)),
    ] {
        let text = format!("{answer:?}");
        let server = Server::start(move |_, _| answer.clone()).await;
        let store = server.store(S3Options::default()).await;
        let got = store.get(&key(), Some(range)).await.map(|reader| reader.meta.size_bytes);
        assert_eq!(got.map_err(|error| error.kind()), expected, "{text}");
        assert_eq!(server.requests()[0].header("range"), "bytes=2-4");
    }
}

#[tokio::test]
async fn server_that_says_nothing_is_given_up() {
    let server = Server::start(|_, _| Answer::Silence).await;
    let store = server.store(S3Options { stall_timeout: Duration::from_millis(100), ..S3Options::default() }).await;
    for error in [
        store.get(&key(), None).await.map(|_| ()).unwrap_err(),
        store.head(&key()).await.map(|_| ()).unwrap_err(),
        store.create_bytes(&key(), vec![0; 1_000_000]).await.map(|_| ()).unwrap_err(),
        store.delete(&[key()]).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Transient);
        assert!(error.reason().contains("no byte moved"), "{error}");
    }
}

const MIB: usize = 1024 * 1024;

fn in_parts() -> S3Options {
    let part_size_bytes = 5 * MIB as u64;
    S3Options {
        multipart_threshold_bytes: part_size_bytes,
        part_size_bytes,
        part_concurrency: 2,
        ..S3Options::default()
    }
}

/// Answers an upload as S3 does, but for the requests that `exception` takes.
fn uploading(exception: impl Fn(usize, &Request) -> Option<Answer>, number: usize, request: &Request) -> Answer {
    if let Some(answer) = exception(number, request) {
        return answer;
    }
    let begun = "<InitiateMultipartUploadResult><UploadId>up</UploadId></InitiateMultipartUploadResult>";
    let completed = "<CompleteMultipartUploadResult><ETag>\"tag-3\"</ETag></CompleteMultipartUploadResult>";
    match (request.method.as_str(), request.target.contains("uploadId")) {
        ("POST", false) => ok(&[], begun),
        ("PUT", true) => ok(&[("ETag", "\"part\"")], ""),
        ("POST", true) => ok(&[], completed),
        ("DELETE", true) => Answer::Full(204, Vec::new(), String::new()),
        _ => refusal(400, "Unexpected"),
    }
}

fn count(requests: &[Request], method: &str, target: &str) -> usize {
    requests.iter().filter(|request| request.method == method && request.target.contains(target)).count()
}

#[tokio::test]
async fn upload_has_equal_parts_with_checksums_and_its_condition_at_the_end() {
    let server = Server::start(|number, request| uploading(|_, _| None, number, request)).await;
    let store = server.store(S3Options { encryption: ServerSideEncryption::Aes256, ..in_parts() }).await;
    let meta = store.create_bytes(&key(), vec![7; 12 * MIB]).await.unwrap();
    assert_eq!((meta.tag.as_str(), meta.size_bytes), ("tag-3", 12 * MIB as u64));
    let requests = server.requests();
    let sizes: Vec<usize> = requests.iter().filter(|r| r.method == "PUT").map(|r| r.body.len()).collect();
    assert_eq!((sizes.len(), sizes.iter().sum::<usize>()), (3, 12 * MIB));
    assert_eq!(sizes.iter().filter(|size| **size == 5 * MIB).count(), 2);
    let (begin, complete) = (&requests[0], &requests[4]);
    assert_eq!(begin.header("x-amz-server-side-encryption"), "AES256");
    assert_eq!(begin.header("x-amz-checksum-algorithm"), "CRC32C");
    assert_eq!((begin.header("if-none-match"), complete.header("if-none-match")), ("", "*"));
    assert_eq!(String::from_utf8_lossy(&complete.body).matches("<ChecksumCRC32C>").count(), 3);
    assert_eq!(count(&requests, "DELETE", "uploadId"), 0);
}

#[tokio::test]
async fn part_that_fails_in_passing_is_put_again_alone() {
    let exception =
        |number, request: &Request| (request.method == "PUT" && number < 3).then(|| refusal(503, "SlowDown"));
    let server = Server::start(move |number, request| uploading(exception, number, request)).await;
    server.store(in_parts()).await.create_bytes(&key(), vec![7; 12 * MIB]).await.unwrap();
    assert_eq!(count(&server.requests(), "PUT", "partNumber"), 5);
    assert_eq!(count(&server.requests(), "POST", "uploads"), 1);
}

#[tokio::test]
async fn upload_that_fails_is_aborted() {
    for (fails, answer, kind) in [
        ("PUT", refusal(403, "AccessDenied"), ErrorKind::Denied),
        ("POST", refusal(412, "PreconditionFailed"), ErrorKind::AlreadyExists),
        ("POST", refusal(409, "ConditionalRequestConflict"), ErrorKind::Transient),
    ] {
        let exception = move |_, request: &Request| {
            (request.method == fails && request.target.contains("uploadId")).then(|| answer.clone())
        };
        let server = Server::start(move |number, request| uploading(&exception, number, request)).await;
        let error = server.store(in_parts()).await.create_bytes(&key(), vec![7; 12 * MIB]).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(count(&server.requests(), "DELETE", "uploadId"), 1);
    }
}

#[tokio::test]
async fn lost_answer_of_a_completion_is_settled_by_content() {
    let content = "7".repeat(12 * MIB);
    for (there, settled) in [(content.clone(), true), ("8".repeat(12 * MIB), false)] {
        let completions = AtomicUsize::new(0);
        let exception = move |_, request: &Request| match (request.method.as_str(), request.target.contains("uploadId"))
        {
            ("POST", true) => Some(match completions.fetch_add(1, Ordering::SeqCst) {
                0 => refusal(500, "InternalError"),
                _ => refusal(404, "NoSuchUpload"),
            }),
            ("GET", _) => Some(ok(&OBJECT, &there)),
            _ => None,
        };
        let server = Server::start(move |number, request| uploading(&exception, number, request)).await;
        let outcome = server.store(in_parts()).await.create_bytes(&key(), content.clone()).await;
        assert_eq!(outcome.is_ok(), settled, "{outcome:?}");
    }
}

#[tokio::test]
async fn store_without_batches_is_asked_one_by_one() {
    let server = Server::start(|_, request| match request.method.as_str() {
        "POST" => refusal(501, "NotImplemented"),
        _ => Answer::Full(204, Vec::new(), String::new()),
    })
    .await;
    let keys: Vec<ObjectKey> = (0..5).map(|n| ObjectKey::new(format!("k{n}")).unwrap()).collect();
    server.store(S3Options::default()).await.delete(&keys).await.unwrap();
    assert_eq!(count(&server.requests(), "DELETE", "/bucket/k"), 5);
}

#[tokio::test]
async fn object_that_a_batch_could_not_delete_is_an_error() {
    let body =
        "<DeleteResult><Error><Key>k1</Key><Code>AccessDenied</Code><Message>locked</Message></Error></DeleteResult>";
    let server = Server::start(move |_, _| ok(&[], body)).await;
    let keys: Vec<ObjectKey> = (0..3).map(|n| ObjectKey::new(format!("k{n}")).unwrap()).collect();
    let error = server.store(S3Options::default()).await.delete(&keys).await.unwrap_err();
    assert_eq!((error.kind(), error.key()), (ErrorKind::Denied, "k1"));
}

#[tokio::test]
async fn listing_that_does_not_say_how_it_goes_on_fails() {
    let body = "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>";
    let server = Server::start(move |_, _| ok(&[], body)).await;
    let error = server.store(S3Options::default()).await.list_all(&KeyPrefix::root(), 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn page_that_fails_in_passing_is_asked_for_again() {
    let body = "<ListBucketResult><Contents><Key>a</Key><Size>1</Size><ETag>\"e\"</ETag>\
                <LastModified>2015-10-21T07:28:00Z</LastModified></Contents></ListBucketResult>";
    let server =
        Server::start(move |number, _| if number < 2 { refusal(503, "SlowDown") } else { ok(&[], body) }).await;
    let listed = server.store(S3Options::default()).await.list_all(&KeyPrefix::root(), 10).await.unwrap();
    assert_eq!(listed.len(), 1);
}
