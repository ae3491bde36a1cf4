//! An S3 server of a test's own: SeaweedFS on the loopback address, in a fresh directory.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certificates::{self, Certificate};
use crate::ports::Port;
use crate::{Account, Process, Scratch, executables, wait};

pub const ACCESS_KEY: &str = "pitrtestaccesskey";
pub const SECRET_KEY: &str = "pitr-test-secret-key-of-some-length";
pub const BUCKET: &str = "backups";

/// Every listener of the server has a port of its own; left out, some would be derived from others and meet a stranger.
const LISTENERS: [&str; 10] = [
    "s3.port",
    "s3.port.grpc",
    "s3.port.iceberg",
    "s3.port.lance",
    "master.port",
    "master.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "volume.port",
    "volume.port.grpc",
];

/// A running server with one bucket, [`BUCKET`].
#[derive(Debug)]
pub struct S3Server {
    ports: Vec<(&'static str, Port)>,
    certificate: Option<Certificate>,
    process: Process,
    scratch: Scratch,
}

impl S3Server {
    /// # Errors
    /// It is not installed or does not come up.
    pub async fn start() -> Result<Self> {
        Self::start_with(false).await
    }

    /// One that speaks TLS, with a certificate of its own authority for `localhost` and 127.0.0.1.
    ///
    /// # Errors
    /// It is not installed or does not come up.
    pub async fn start_tls() -> Result<Self> {
        Self::start_with(true).await
    }

    async fn start_with(tls: bool) -> Result<Self> {
        let scratch = Scratch::new()?;
        scratch.directory("store")?;
        scratch.file("identities.json", &identities())?;
        let certificate = tls.then(|| certificates::issue(&scratch, &["localhost", "127.0.0.1"])).transpose()?;
        let mut ports = LISTENERS.iter().map(|&name| Ok((name, Port::take()?))).collect::<Result<Vec<_>>>()?;
        if tls {
            ports.push(("s3.port.https", Port::take()?));
        }
        let process = spawn(&scratch, &ports, certificate.as_ref())?;
        let mut server = Self { ports, certificate, process, scratch };
        server.wait_ready().await?;
        server.make_bucket(BUCKET).await?;
        Ok(server)
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let (s3, filer) = (self.port("s3.port"), self.port("filer.port"));
        let process = &mut self.process;
        let ready = wait::until("the S3 server answers", Duration::from_mins(1), async || {
            ensure!(process.ended()?.is_none(), "the S3 server ended:\n{}", process.tail());
            let up =
                request(s3, "GET", "/").await.is_ok() && request(filer, "GET", "/").await.is_ok_and(|code| code < 500);
            Ok(up.then_some(()))
        });
        ready.await.with_context(|| format!("its log:\n{}", self.process.tail()))
    }

    /// # Errors
    /// The server refuses.
    pub async fn make_bucket(&self, name: &str) -> Result<()> {
        let filer = self.port("filer.port");
        // The first write waits for the volume server to have registered itself.
        wait::until(format!("bucket {name} is made"), Duration::from_mins(1), async || {
            let code = request(filer, "POST", &format!("/buckets/{name}/")).await.unwrap_or(500);
            Ok((200..300).contains(&code).then_some(()))
        })
        .await
    }

    /// Where clients connect to.
    #[must_use]
    pub fn endpoint(&self) -> String {
        match self.certificate {
            Some(_) => format!("https://localhost:{}", self.port("s3.port.https")),
            None => format!("http://127.0.0.1:{}", self.port("s3.port")),
        }
    }

    /// The address of its plain listener, for a proxy in front.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, self.port("s3.port")).into()
    }

    /// The address of its TLS listener.
    ///
    /// # Errors
    /// It speaks none.
    pub fn tls_address(&self) -> Result<std::net::SocketAddr> {
        ensure!(self.certificate.is_some(), "the server speaks no TLS");
        Ok((std::net::Ipv4Addr::LOCALHOST, self.port("s3.port.https")).into())
    }

    /// Its plain file interface, which asks for no signature: `/buckets/<bucket>/<key>`.
    #[must_use]
    pub fn file_address(&self) -> std::net::SocketAddr {
        (std::net::Ipv4Addr::LOCALHOST, self.port("filer.port")).into()
    }

    /// The authority to trust, where it speaks TLS.
    #[must_use]
    pub fn authority(&self) -> Option<PathBuf> {
        self.certificate.as_ref().map(|certificate| certificate.authority.clone())
    }

    /// What a client needs in its environment.
    #[must_use]
    pub fn credentials() -> Vec<(String, String)> {
        [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY), ("AWS_REGION", "us-east-1")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// Kills the server, as a crash does.
    ///
    /// # Errors
    /// It can't be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// Starts it again on what it has stored, at the same ports.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn restart(&mut self) -> Result<()> {
        self.process.kill()?;
        self.process = spawn(&self.scratch, &self.ports, self.certificate.as_ref())?;
        self.wait_ready().await
    }

    #[must_use]
    pub const fn process(&self) -> &Process {
        &self.process
    }

    fn port(&self, listener: &str) -> u16 {
        self.ports.iter().find(|(name, _)| *name == listener).map_or(0, |(_, port)| port.number())
    }
}

impl Drop for S3Server {
    /// It puts sockets named by their port into /tmp, whatever TMPDIR says.
    fn drop(&mut self) {
        for entry in std::fs::read_dir("/tmp").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_ours = |(_, port): &(&str, Port)| name.ends_with(&format!("-{}.sock", port.number()));
            if name.starts_with("seaweedfs-") && self.ports.iter().any(is_ours) {
                // Only a file's name is left behind when this fails.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

fn spawn(scratch: &Scratch, ports: &[(&'static str, Port)], certificate: Option<&Certificate>) -> Result<Process> {
    let mut command = Account::of_servers()?.command(executables::weed()?);
    command.current_dir(scratch.path()).env("HOME", scratch.path()).env("TMPDIR", scratch.path());
    command.arg(format!("-logdir={}", scratch.path().display()));
    command.arg("server").arg(format!("-dir={}", scratch.path().join("store").display()));
    command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3", "-s3.autoCreateBucket=false", "-iam=false"]);
    command.args(["-volume.max=100", "-master.volumeSizeLimitMB=256"]);
    command.arg(format!("-s3.config={}", scratch.path().join("identities.json").display()));
    for (name, port) in ports {
        command.arg(format!("-{name}={}", port.number()));
    }
    if let Some(certificate) = certificate {
        command.arg(format!("-s3.cert.file={}", certificate.certificate.display()));
        command.arg(format!("-s3.key.file={}", certificate.key.display()));
    }
    Process::spawn(command, &scratch.path().join("weed.log"))
}

fn identities() -> String {
    serde_json::json!({"identities": [{
        "name": "pitr",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }]})
    .to_string()
}

/// The status of the answer to an empty request.
async fn request(port: u16, method: &str, path: &str) -> Result<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await??;
    let status = String::from_utf8_lossy(&answer);
    let code = status.split(' ').nth(1).context("no status in the answer")?;
    Ok(code.parse()?)
}
