//! A backup, written out by the format's rules and started.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pitr::postgres::TablespaceMap;
use pitr::postgres::tablespace_map::MappedTablespace;
use pitr::repository::LineageStore;
use pitr::repository::backup::{BackupManifest, ContentsLine};
use tempfile::TempDir;

use super::archive::Archive;
use super::reader::Reader;
use crate::support::{Server, binaries, command, directory, free_port, succeed};

pub struct Restored {
    root: TempDir,
    bin: PathBuf,
    port: u16,
}

impl Restored {
    pub async fn new(origin: &Server, lineage: &LineageStore, manifest: &BackupManifest, archive: &Archive) -> Self {
        let restored = Self { root: directory(), bin: binaries().unwrap(), port: free_port() };
        let mut reader = Reader::new(lineage);
        let (_, lines) = reader.backup(&manifest.id).await;
        fs::create_dir(restored.data()).unwrap();
        let mut locations = Vec::new();
        for tablespace in manifest.tablespaces.iter().filter(|tablespace| !tablespace.in_place) {
            let path = restored.root.path().join(format!("tablespace {}", tablespace.oid));
            fs::create_dir(&path).unwrap();
            locations.push(MappedTablespace { oid: tablespace.oid, path });
        }
        let map = TablespaceMap::new(locations).unwrap();
        for line in &lines {
            match line {
                ContentsLine::Directory { path, mode } => {
                    let path = restored.place(&map, path.as_str());
                    fs::create_dir(&path).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                }
                ContentsLine::Map { hash, .. } => {
                    for (path, file) in reader.map(hash).await {
                        fs::write(restored.place(&map, &path), &file.content).unwrap();
                    }
                }
                _ => {}
            }
        }
        if !map.is_empty() {
            fs::write(restored.data().join("tablespace_map"), map.to_bytes()).unwrap();
        }
        restored.configure(origin, archive);
        restored
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn place(&self, map: &TablespaceMap, path: &str) -> PathBuf {
        if let Some((oid, rest)) = path.strip_prefix("pg_tblspc/").and_then(|rest| rest.split_once('/')) {
            return map.path(oid.parse().unwrap()).unwrap().join(rest);
        }
        self.data().join(path)
    }

    fn configure(&self, origin: &Server, archive: &Archive) {
        let path = self.data().join("postgresql.conf");
        let socket = |root: &Path| root.display().to_string();
        let text = fs::read_to_string(&path).unwrap().replace(&socket(&origin.socket()), &socket(self.root.path()));
        let own = format!(
            "\nport = {}\nlisten_addresses = ''\nrestore_command = 'cp \"{}/%f\" \"%p\"'\n\
             recovery_target = 'immediate'\nrecovery_target_action = 'promote'\narchive_mode = off\n",
            self.port,
            archive.pg_wal.display()
        );
        fs::write(&path, text + &own).unwrap();
        fs::write(self.data().join("recovery.signal"), "").unwrap();
        fs::set_permissions(self.data(), fs::Permissions::from_mode(0o700)).unwrap();
        if nix::unistd::geteuid().is_root() {
            succeed(Command::new("chown").args(["-R", "postgres:postgres"]).arg(self.root.path()));
        }
    }

    pub fn start(&self) {
        let log = self.root.path().join("log");
        let mut start = command(&self.bin.join("pg_ctl"));
        start.args(["-w", "-t", "120", "-D"]).arg(self.data()).arg("-l").arg(&log).arg("start");
        let status = start.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{}", fs::read_to_string(&log).unwrap_or_default());
        let promoted = "SELECT pg_is_in_recovery()";
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while self.sql(promoted) != "f" {
            assert!(std::time::Instant::now() < deadline, "{}", fs::read_to_string(&log).unwrap_or_default());
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    fn tool(&self, name: &str) -> Command {
        let mut tool = command(&self.bin.join(name));
        tool.env("PGHOST", self.root.path()).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        tool
    }

    pub fn sql(&self, sql: &str) -> String {
        let output =
            succeed(self.tool("psql").args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, "postgres"]));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Every index against its table, then every page against its checksum.
    pub fn check_with_tools(&self) {
        succeed(self.tool("pg_amcheck").args(["--all", "--install-missing", "--heapallindexed"]));
        succeed(command(&self.bin.join("pg_ctl")).args(["-w", "-m", "fast", "-D"]).arg(self.data()).arg("stop"));
        succeed(command(&self.bin.join("pg_checksums")).arg("--check").arg("-D").arg(self.data()));
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        let mut stop = command(&self.bin.join("pg_ctl"));
        stop.args(["-m", "immediate", "-D"]).arg(self.data()).arg("stop");
        let _ = stop.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}
