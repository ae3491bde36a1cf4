//! A server to be restored: a throwaway cluster with an archive, and a copy of it made as a backup is.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use async_trait::async_trait;

use crate::postgres::backup_label::BackupLabel;
use crate::postgres::control_file::ControlFile;
use crate::postgres::{Lsn, MajorVersion, ServerVersion, SystemIdentifier};
use crate::repository::LineageStore;
use crate::repository::backup::{BackupManifest, Owner, StoredPath};
use crate::restore::server::{SqlEndpoint, SqlProbe, SqlProbeError};
use crate::restore::testing::BackupWriter;

const BIN_DIRECTORY: &str = "/usr/lib/postgresql/15/bin";

/// A server, stopped when dropped.
pub(super) struct Origin {
    scratch: tempfile::TempDir,
    /// That of Debian's version, or what `PITR_RESTORE_TEST_BIN` names.
    bin_directory: PathBuf,
    major: MajorVersion,
}

/// A copy of the data directory.
pub(super) struct Copied {
    directory: PathBuf,
    label: BackupLabel,
    stop_lsn: Lsn,
    pub(super) first_segment: String,
}

/// A restore point, and the transaction before it.
pub(super) struct RestorePoint {
    pub(super) start: Lsn,
    pub(super) end: Lsn,
    pub(super) xid_before: u32,
}

/// The server refuses root, so root works as `postgres`.
fn unprivileged(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]).arg(program);
    command
}

fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap().trim().to_owned()
}

impl Origin {
    pub(super) fn start() -> Option<Self> {
        let bin_directory =
            std::env::var_os("PITR_RESTORE_TEST_BIN").map_or_else(|| PathBuf::from(BIN_DIRECTORY), PathBuf::from);
        if !bin_directory.join("initdb").exists() {
            let required = std::env::var_os("REQUIRE_E2E").is_some_and(|value| value == "1");
            assert!(!required, "no PostgreSQL in {}", bin_directory.display());
            eprintln!("SKIPPED: no PostgreSQL in {}", bin_directory.display());
            return None;
        }
        let version = run(Command::new(bin_directory.join("postgres")).arg("--version"));
        let major = version.rsplit(") ").next().unwrap().split('.').next().unwrap().parse().unwrap();
        let scratch = tempfile::Builder::new().prefix("pitr-restore-").tempdir_in("/tmp").unwrap();
        let origin = Self { scratch, bin_directory, major: MajorVersion::from_number(major).unwrap() };
        let path = origin.scratch.path();
        run(Command::new("chmod").arg("0755").arg(path));
        if rustix::process::geteuid().is_root() {
            run(Command::new("chown").arg("postgres:postgres").arg(path));
        }
        let data = origin.data_directory();
        run(unprivileged(&origin.bin("initdb")).args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"]).arg(&data));
        run(unprivileged(Path::new("mkdir")).arg(origin.archive()));
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{socket}'\nport = 5499\narchive_mode = on\n\
             archive_command = 'cp \"%p\" \"{archive}/%f\"'\nautovacuum = off\nshared_buffers = 16MB\n\
             max_wal_size = 1GB\nfsync = off\n",
            socket = path.display(),
            archive = origin.archive().display()
        );
        let config = data.join("postgresql.conf");
        std::fs::write(&config, std::fs::read_to_string(&config).unwrap() + &settings).unwrap();
        let log = path.join("origin.log");
        run(unprivileged(&origin.bin("pg_ctl")).args(["start", "-w", "-D"]).arg(&data).arg("-l").arg(log));
        Some(origin)
    }

    pub(super) fn bin_directory(&self) -> PathBuf {
        self.bin_directory.clone()
    }

    pub(super) fn psql() -> PathBuf {
        Path::new(BIN_DIRECTORY).join("psql")
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.bin_directory.join(name)
    }

    pub(super) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub(super) fn data_directory(&self) -> PathBuf {
        self.scratch.path().join("origin")
    }

    pub(super) fn archive(&self) -> PathBuf {
        self.scratch.path().join("archive")
    }

    pub(super) fn sql(&self, sql: &str) -> String {
        let mut psql = unprivileged(&Self::psql());
        run(psql
            .args(["-X", "-q", "-A", "-t", "-U", "postgres", "-p", "5499", "-v", "ON_ERROR_STOP=1", "-h"])
            .arg(self.scratch.path())
            .args(["-d", "postgres", "-c", sql]))
    }

    /// Copies the data directory as a backup does.
    pub(super) fn back_up(&mut self) -> Copied {
        let directory = self.scratch.path().join("copy");
        // Start, copy and stop belong to one session.
        let script = format!(
            "\\t on\n\\a\nSELECT pg_backup_start('pitr', true);\n\\! cp -a '{data}' '{copy}'\n\
             SELECT lsn FROM pg_backup_stop(false) \\g '{scratch}/stop_lsn'\n",
            data = self.data_directory().display(),
            copy = directory.display(),
            scratch = self.scratch.path().display(),
        );
        // The label is only returned once, by the stop itself.
        let script = script.replace(
            "SELECT lsn FROM pg_backup_stop(false) \\g",
            "SELECT lsn || E'\\n' || labelfile FROM pg_backup_stop(false) \\g",
        );
        let script = if self.major < MajorVersion::V15 {
            let stop = script.replace("pg_backup_stop(false)", "pg_stop_backup(false, false)");
            stop.replace("pg_backup_start('pitr', true)", "pg_start_backup('pitr', true, false)")
        } else {
            script
        };
        let path = self.scratch.path().join("script.sql");
        std::fs::write(&path, script).unwrap();
        let mut psql = unprivileged(&Self::psql());
        run(psql
            .args(["-X", "-q", "-U", "postgres", "-p", "5499", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-h"])
            .arg(self.scratch.path())
            .arg("-f")
            .arg(&path));
        let answer = std::fs::read_to_string(self.scratch.path().join("stop_lsn")).unwrap();
        let (stop_lsn, label) = answer.split_once('\n').unwrap();
        let label = format!("{}\n", label.trim_end());
        std::fs::write(directory.join("backup_label"), &label).unwrap();
        for name in ["postmaster.pid", "postmaster.opts"] {
            std::fs::remove_file(directory.join(name)).unwrap();
        }
        let label = BackupLabel::parse(label.as_bytes()).unwrap();
        let first_segment = label.start_segment().to_string();
        Copied { directory, label, stop_lsn: stop_lsn.parse().unwrap(), first_segment }
    }

    /// Returns the transaction's number.
    pub(super) fn insert(&self, entry: u32) -> u32 {
        let sql = format!("INSERT INTO ledger VALUES ({entry}) RETURNING pg_current_xact_id()");
        self.sql(&sql).parse().unwrap()
    }

    pub(super) fn restore_point(&self, name: &str) -> RestorePoint {
        let xid_before: u32 = self.sql("SELECT max(xmin::text::int) FROM ledger").parse().unwrap();
        // On a quiet server the insert position is where the next record starts, but at the beginning of a page.
        for _ in 0..10 {
            let answer =
                self.sql(&format!("SELECT pg_current_wal_insert_lsn() || ' ' || pg_create_restore_point('{name}')"));
            let (start, end) = answer.split_once(' ').unwrap();
            let point = RestorePoint { start: start.parse().unwrap(), end: end.parse().unwrap(), xid_before };
            if point.end.distance_from(point.start) == Some(104) {
                return point;
            }
        }
        panic!("no restore point within a page");
    }

    /// Waits until all WAL so far is in the archive.
    pub(super) fn archive_everything(&self) {
        let file = self.sql("SELECT pg_walfile_name(pg_switch_wal())");
        let began = std::time::Instant::now();
        while !self.archive().join(&file).exists() {
            assert!(began.elapsed().as_secs() < 30, "{file} is not archived");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        // The archiver copies under the final name: its word is what counts.
        while !self.data_directory().join(format!("pg_wal/archive_status/{file}.done")).exists() {
            assert!(began.elapsed().as_secs() < 30, "{file} is not archived");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Takes away the newest segment, which holds what happened after the backup.
    pub(super) fn lose_wal_after_backup(&self) {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.archive())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.file_name().unwrap().len() == 24)
            .collect();
        files.sort();
        std::fs::remove_file(files.last().unwrap()).unwrap();
    }

    /// Puts the copy into a repository.
    pub(super) async fn store(&self, lineage: &LineageStore, copy: &Copied) -> BackupManifest {
        let mut writer = BackupWriter::new(lineage.clone()).await;
        let mut left = vec![copy.directory.clone()];
        let mut files = Vec::new();
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let relative = path.strip_prefix(&copy.directory).unwrap().to_owned();
                let stored = StoredPath::from_path(&relative).unwrap();
                if path.is_dir() {
                    writer.directory(stored.as_str(), 0o700);
                    left.push(path);
                } else if !relative.starts_with("pg_wal") {
                    files.push((stored, path));
                }
            }
        }
        for (stored, path) in files {
            writer.file(stored.as_str(), &std::fs::read(path).unwrap());
        }
        let mut manifest = writer.finish().await;
        let control = ControlFile::parse(&std::fs::read(copy.directory.join("global/pg_control")).unwrap()).unwrap();
        manifest.system_identifier = SystemIdentifier::new(control.system_identifier.as_u64());
        manifest.postgres_version = ServerVersion::new(u32::from(self.major.as_u16()) * 10_000);
        (manifest.catalog_version, manifest.control_version) = (control.catalog_version, control.control_version);
        manifest.start_lsn = copy.label.start_lsn();
        manifest.checkpoint_lsn = copy.label.checkpoint_lsn();
        manifest.stop_lsn = copy.stop_lsn;
        manifest.data_directory = self.data_directory().display().to_string();
        manifest.owner =
            Owner { uid: 0, gid: 0, user: Some("postgres".to_owned()), group: Some("postgres".to_owned()) };
        manifest
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let mut stop = unprivileged(&self.bin("pg_ctl"));
        let _ = stop.args(["stop", "-m", "immediate", "-D"]).arg(self.data_directory()).output();
    }
}

/// Asks through the client of PostgreSQL.
#[derive(Debug)]
pub(super) struct Psql;

#[async_trait]
impl SqlProbe for Psql {
    async fn query(&self, endpoint: &SqlEndpoint, sql: &str) -> Result<Option<String>, SqlProbeError> {
        let mut psql = Command::new(Origin::psql());
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", &endpoint.user, "-d", &endpoint.database])
            .args(["-p", &endpoint.port.to_string(), "-c", sql, "-h"])
            .arg(&endpoint.socket_directory);
        let output = psql.output().map_err(|error| SqlProbeError(error.to_string()))?;
        if !output.status.success() {
            return Err(SqlProbeError(String::from_utf8_lossy(&output.stderr).trim().to_owned()));
        }
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok((!text.is_empty()).then_some(text))
    }
}
