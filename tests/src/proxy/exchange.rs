//! One connection of a client: request after request, each with the fault that is in force for it.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::fault::{Fault, Rules};
use super::http::{Copier, Head};

struct Side {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl Side {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        Ok(Self { reader: BufReader::with_capacity(64 * 1024, reader), writer })
    }

    /// The other side sees "connection reset by peer".
    fn reset(self) -> io::Result<()> {
        self.writer.as_ref().set_zero_linger()?;
        Ok(())
    }
}

/// Serves a client until it goes or a fault cuts it off.
pub async fn serve(client: TcpStream, server: SocketAddr, rules: &Rules) -> io::Result<()> {
    let mut client = Side::new(client)?;
    let mut upstream = None;
    while let Some(request) = Head::read(&mut client.reader).await? {
        let (method, path) = request.first_words();
        let fault = rules.fault_for(method, path);
        match fault {
            Fault::Stall => {
                rules.changed().await;
                return Ok(());
            }
            Fault::SlowDown => refuse(&mut client, &request, 503, "SlowDown").await?,
            Fault::ExpiredToken => refuse(&mut client, &request, 400, "ExpiredToken").await?,
            fault => {
                if let Fault::Delay(pause) = fault {
                    tokio::time::sleep(pause).await;
                }
                let side = match upstream.take() {
                    Some(side) => side,
                    None => Side::new(TcpStream::connect(server).await?)?,
                };
                match forward(client, side, request, &fault).await? {
                    Some((kept_client, kept_server)) => (client, upstream) = (kept_client, kept_server),
                    None => return Ok(()),
                }
            }
        }
    }
    Ok(())
}

/// Passes one request on and the answer back. None: the client's connection is over.
async fn forward(
    mut client: Side,
    mut server: Side,
    mut request: Head,
    fault: &Fault,
) -> io::Result<Option<(Side, Option<Side>)>> {
    let method = request.first_words().0.to_owned();
    let body = request.request_body();
    if request.header("expect").is_some() {
        // Answered here: the two bodies then never wait for each other.
        request.remove("expect");
        client.writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    request.write(&mut server.writer).await?;
    let limit = if let Fault::ResetAfter { bytes } = *fault { Some(bytes) } else { None };
    let rate = if let Fault::Throttle { bytes_per_second } = *fault { Some(bytes_per_second) } else { None };
    let mut copier = Copier::new(rate, limit);
    if !copier.copy(body, &mut client.reader, &mut server.writer).await? || matches!(fault, Fault::ResetAfter { .. }) {
        client.reset()?;
        return Ok(None);
    }
    let answer = loop {
        let head = Head::read(&mut server.reader).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        if !(100..200).contains(&head.status()) {
            break head;
        }
    };
    let body = answer.answer_body(&method);
    match *fault {
        Fault::ResetAfterEffect => {
            client.reset()?;
            return Ok(None);
        }
        Fault::ErrorAfterEffect => {
            copier.copy(body, &mut server.reader, &mut tokio::io::sink()).await?;
            answer_with(&mut client, 500, "InternalError").await?;
            return Ok(Some((client, Some(server))));
        }
        _ => {}
    }
    answer.write(&mut client.writer).await?;
    let limit = if let Fault::TruncateBody { bytes } = *fault { Some(bytes) } else { None };
    let mut copier = Copier::new(rate, limit);
    let whole = copier.copy(body, &mut server.reader, &mut client.writer).await?;
    let closes =
        body == super::http::Body::UntilClose || answer.header("connection").is_some_and(|value| value == "close");
    if !whole || closes {
        client.writer.shutdown().await?;
        return Ok(None);
    }
    Ok(Some((client, Some(server))))
}

/// Reads the request to its end and answers without the store.
async fn refuse(client: &mut Side, request: &Head, code: u16, name: &str) -> io::Result<()> {
    if request.header("expect").is_none() {
        Copier::default().copy(request.request_body(), &mut client.reader, &mut tokio::io::sink()).await?;
    }
    answer_with(client, code, name).await
}

async fn answer_with(client: &mut Side, code: u16, name: &str) -> io::Result<()> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{name}</Code><Message>made by the test</Message></Error>"
    );
    let head = format!(
        "HTTP/1.1 {code} {name}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    client.writer.write_all(head.as_bytes()).await?;
    client.writer.flush().await
}
