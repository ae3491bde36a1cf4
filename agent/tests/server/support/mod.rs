//! A throwaway server for each test.
//!
//! PostgreSQL 15 is found through `PITR_TEST_PG15_BIN`, else in Debian's place. Without it a test says so and returns;
//! with `REQUIRE_E2E=1` it fails instead.

pub mod archive;

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use pitr_agent::postgres::conninfo::{ConnInfo, Environment};
use tempfile::TempDir;

/// Debian's, which has all client programs; they talk to every version.
const CLIENTS: &str = "/usr/lib/postgresql/15/bin";

/// The binaries of PostgreSQL 15; none where this test is to be skipped.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
pub fn binaries() -> Option<PathBuf> {
    let place = std::env::var_os("PITR_TEST_PG15_BIN").map_or(CLIENTS.into(), PathBuf::from);
    if place.join("postgres").exists() {
        return Some(place);
    }
    assert!(std::env::var_os("REQUIRE_E2E").is_none(), "PostgreSQL 15 is not in {}", place.display());
    eprintln!("skipped: PostgreSQL 15 is not in {}", place.display());
    None
}

/// A program as the user that may run servers: they refuse root.
pub fn command(program: &Path) -> Command {
    if !nix::unistd::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(program);
    command
}

pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Gives `path` to the user that runs servers.
pub fn hand_over(path: &Path) {
    if nix::unistd::geteuid().is_root() {
        let user = nix::unistd::User::from_name("postgres").unwrap().expect("the user postgres exists");
        nix::unistd::chown(path, Some(user.uid), Some(user.gid)).unwrap();
    }
}

pub fn directory() -> TempDir {
    let directory = tempfile::Builder::new().prefix("pitr").tempdir_in("/tmp").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
    hand_over(directory.path());
    directory
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Polls until `ready` says so.
pub async fn eventually<F: Future<Output = bool>>(what: &str, seconds: u64, mut ready: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    while !ready().await {
        assert!(Instant::now() < deadline, "not within {seconds} s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A running server; ends with the value.
pub struct Server {
    bin: PathBuf,
    root: TempDir,
    pub port: u16,
}

impl Server {
    /// Makes and starts one with these lines in `postgresql.conf`.
    pub fn start(bin: &Path, settings: &str) -> Self {
        Self::start_with_segments(bin, 16, settings)
    }

    pub fn start_with_segments(bin: &Path, megabytes: u32, settings: &str) -> Self {
        let server = Self { bin: bin.to_owned(), root: directory(), port: free_port() };
        succeed(
            command(&bin.join("initdb"))
                .args(["-N", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--wal-segsize"])
                .arg(megabytes.to_string())
                .arg("-D")
                .arg(server.data()),
        );
        server.configure(settings);
        server.run();
        server
    }

    /// A standby of `primary`, streaming from it; a copy made while the primary is stopped for a moment.
    pub fn standby_of(primary: &Self, settings: &str) -> Self {
        let server = Self { bin: primary.bin.clone(), root: directory(), port: free_port() };
        primary.stop("fast");
        succeed(command("/bin/cp".as_ref()).arg("-a").arg(primary.data()).arg(server.data()));
        primary.run();
        let upstream = format!("host={} port={} user=postgres", primary.socket().display(), primary.port);
        server.configure(&format!("primary_conninfo = '{upstream}'\n{settings}"));
        server.write("standby.signal", "");
        server.run();
        server
    }

    fn configure(&self, settings: &str) {
        let own = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\n\
             max_wal_size = '64MB'\nmin_wal_size = '32MB'\n{settings}\n",
            self.port,
            self.socket().display()
        );
        self.append("postgresql.conf", &own);
    }

    pub fn append(&self, file: &str, text: &str) {
        let path = self.data().join(file);
        let before = fs::read_to_string(&path).unwrap_or_default();
        fs::write(&path, before + text).unwrap();
        hand_over(&path);
    }

    pub fn write(&self, file: &str, text: &str) {
        fs::write(self.data().join(file), text).unwrap();
        hand_over(&self.data().join(file));
    }

    pub fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.root.path().to_owned()
    }

    pub fn run(&self) {
        let log = self.root.path().join("log");
        let mut start = command(&self.bin.join("pg_ctl"));
        start.args(["-w", "-t", "60", "-D"]).arg(self.data()).arg("-l").arg(&log).arg("start");
        let status = start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(&log).unwrap_or_default());
    }

    /// Stops the server and says how long that took.
    pub fn stop(&self, mode: &str) -> Duration {
        let begun = Instant::now();
        succeed(
            command(&self.bin.join("pg_ctl")).args(["-w", "-t", "120", "-m", mode, "-D"]).arg(self.data()).arg("stop"),
        );
        begun.elapsed()
    }

    pub fn promote(&self) {
        succeed(command(&self.bin.join("pg_ctl")).args(["-w", "-D"]).arg(self.data()).arg("promote"));
    }

    pub fn reload(&self) {
        succeed(command(&self.bin.join("pg_ctl")).arg("-D").arg(self.data()).arg("reload"));
    }

    pub fn tool(&self, name: &str) -> Command {
        let own = self.bin.join(name);
        let mut tool = command(&if own.exists() { own } else { Path::new(CLIENTS).join(name) });
        tool.env("PGHOST", self.socket()).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        tool
    }

    /// Runs SQL and returns what it prints.
    pub fn sql(&self, sql: &str) -> String {
        let output =
            succeed(self.tool("psql").args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, "postgres"]));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    /// Over the socket, as the superuser.
    pub fn conninfo(&self) -> ConnInfo {
        self.conninfo_with(&format!("host={} user=postgres", self.socket().display()))
    }

    pub fn conninfo_with(&self, text: &str) -> ConnInfo {
        ConnInfo::parse(&format!("port={} {text}", self.port), &Environment::default()).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = command(&self.bin.join("pg_ctl"));
        stop.args(["-m", "immediate", "-D"]).arg(self.data()).arg("stop");
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Server {
    /// Up to where WAL is written and flushed now.
    pub fn end_of_wal(&self) -> pitr::postgres::Lsn {
        // A commit makes sure that what came before is flushed.
        self.sql("SELECT pg_logical_emit_message(true, 'pitr', 'x')");
        self.sql("SELECT pg_current_wal_flush_lsn()").parse().unwrap()
    }

    /// `pgbench` tables.
    pub fn prepare_load(&self, scale: u32) {
        succeed(self.tool("pgbench").args(["-i", "-q", "-s", &scale.to_string(), "postgres"]));
    }

    /// A load for so many seconds, in the background.
    pub fn load(&self, seconds: u64) -> std::process::Child {
        let mut load = self.tool("pgbench");
        load.args(["-n", "-c", "4", "-T", &seconds.to_string(), "postgres"]);
        load.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}
