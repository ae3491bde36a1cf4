use super::*;
use crate::postgres::{Lsn, MajorVersion, TimelineId};
use crate::repository::backup::ExternalRole;

const MINIMUM: MinimumSettings = MinimumSettings {
    max_connections: 200,
    max_worker_processes: 8,
    max_wal_senders: 10,
    max_prepared_transactions: 5,
    max_locks_per_transaction: 64,
};

fn settings(action: TargetAction) -> RecoverySettings {
    RecoverySettings {
        restore: "20261122T101500Z-00001a2b".parse().unwrap(),
        version: MajorVersion::V15,
        restore_command: b"false".to_vec(),
        timeline: TimelineId::FIRST,
        target_lsn: Lsn::new(0x0300_0060),
        action,
        in_place_tablespaces: false,
    }
}

struct Cluster {
    scratch: tempfile::TempDir,
}

impl Cluster {
    fn new(files: &[(&str, &str)]) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = scratch.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self { scratch }
    }

    fn configure(&self, externals: &[ExternalFile], action: TargetAction) -> (ConfigView, Vec<String>) {
        let directory = Directory::open(self.scratch.path()).unwrap();
        let written = ConfigurationWriter {
            directory: &directory,
            owner: None,
            origin: Path::new("/var/lib/postgresql/15/main"),
            externals,
            settings: &settings(action),
            minimum: MINIMUM,
        }
        .write()
        .unwrap();
        (ConfigView::read(self.scratch.path()).unwrap(), written.notes)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.scratch.path().join(name)).unwrap()
    }
}

fn value(view: &ConfigView, name: &str) -> Option<String> {
    view.value(name).map(|value| String::from_utf8_lossy(value).into_owned())
}

fn external(role: ExternalRole, path: &str, text: &str) -> ExternalFile {
    ExternalFile { role, path: path.to_owned(), mode: 0o644, content: text.as_bytes().to_vec() }
}

#[test]
fn only_settings_below_the_minimum_are_raised() {
    let cluster = Cluster::new(&[
        ("postgresql.conf", "max_connections = 100\nmax_worker_processes = 50\n"),
        ("pg_hba.conf", "local all all peer\n"),
    ]);
    let (view, notes) = cluster.configure(&[], TargetAction::Promote);
    assert_eq!(value(&view, "max_connections").as_deref(), Some("200"));
    assert_eq!(value(&view, "max_worker_processes").as_deref(), Some("50"));
    assert_eq!(value(&view, "max_prepared_transactions").as_deref(), Some("5"));
    assert_eq!(value(&view, "max_wal_senders"), None);
    assert_eq!(notes, [""; 0]);
    assert!(cluster.scratch.path().join("recovery.signal").exists());
}

#[test]
fn a_signal_that_would_make_a_standby_goes() {
    let cluster = Cluster::new(&[("postgresql.conf", ""), ("pg_hba.conf", ""), ("standby.signal", "")]);
    cluster.configure(&[], TargetAction::Promote);
    assert!(!cluster.scratch.path().join("standby.signal").exists());
}

#[test]
fn debian_files_come_into_the_data_directory() {
    let cluster = Cluster::new(&[("postgresql.auto.conf", "")]);
    let externals = [
        external(
            ExternalRole::ConfigFile,
            "/etc/postgresql/15/main/postgresql.conf",
            "data_directory = '/var/lib/postgresql/15/main'\nhba_file = '/etc/postgresql/15/main/pg_hba.conf'\n\
             ident_file = '/etc/postgresql/15/main/pg_ident.conf'\nexternal_pid_file = '/run/postgresql/15-main.pid'\n\
             include_dir = 'conf.d'\ninclude '/etc/shared/tuning.conf'\nssl = on\n\
             ssl_cert_file = '/etc/ssl/certs/no-such-certificate.pem'\nlog_directory = '/var/lib/postgresql/15/main/log'\n",
        ),
        external(ExternalRole::HbaFile, "/etc/postgresql/15/main/pg_hba.conf", "local all all trust\n"),
        external(ExternalRole::IdentFile, "/etc/postgresql/15/main/pg_ident.conf", "# none\n"),
        external(ExternalRole::Included, "/etc/postgresql/15/main/conf.d/10.conf", "data_directory = '/x'\nport = 7\n"),
        external(ExternalRole::Included, "/etc/shared/tuning.conf", "work_mem = '8MB'\n"),
    ];
    let (view, notes) = cluster.configure(&externals, TargetAction::Promote);
    assert_eq!(value(&view, "data_directory"), None);
    assert_eq!(value(&view, "hba_file"), None);
    assert_eq!(value(&view, "ident_file"), None);
    assert_eq!(value(&view, "external_pid_file").as_deref(), Some(""));
    assert_eq!(value(&view, "port").as_deref(), Some("7"));
    assert_eq!(value(&view, "work_mem").as_deref(), Some("8MB"));
    assert_eq!(value(&view, "ssl").as_deref(), Some("off"));
    let log = cluster.scratch.path().join("log");
    assert_eq!(value(&view, "log_directory").as_deref(), log.to_str());
    assert_eq!(cluster.text("pg_hba.conf"), "local all all trust\n");
    assert!(notes.iter().any(|note| note.contains("no-such-certificate")), "{notes:?}");
}

#[test]
fn a_cluster_without_its_files_still_starts() {
    let cluster = Cluster::new(&[]);
    let (_, notes) = cluster.configure(&[], TargetAction::Promote);
    assert_eq!(cluster.text("pg_hba.conf"), "local all all peer\n");
    assert_eq!(notes.len(), 2);
}

#[test]
fn pausing_needs_hot_standby() {
    for (action, expected) in [(TargetAction::Pause, "on"), (TargetAction::Promote, "off")] {
        let cluster = Cluster::new(&[("postgresql.conf", "hot_standby = off\n"), ("pg_hba.conf", "")]);
        let (view, _) = cluster.configure(&[], action);
        assert_eq!(value(&view, "hot_standby").as_deref(), Some(expected));
    }
}

#[test]
fn sockets_go_where_a_directory_is() {
    let cluster = Cluster::new(&[
        ("postgresql.conf", "unix_socket_directories = '/tmp, /no/such/directory'\n"),
        ("pg_hba.conf", ""),
    ]);
    let (view, notes) = cluster.configure(&[], TargetAction::Promote);
    assert_eq!(value(&view, "unix_socket_directories").as_deref(), Some("/tmp"));
    assert_eq!(notes.len(), 1);
}

#[test]
fn writing_twice_changes_nothing() {
    let cluster = Cluster::new(&[("postgresql.conf", "port = 1\n"), ("postgresql.auto.conf", "work_mem = '1MB'\n")]);
    cluster.configure(&[], TargetAction::Promote);
    let count = |text: &str| text.lines().filter(|line| line.starts_with("restore_command")).count();
    cluster.configure(&[], TargetAction::Promote);
    assert_eq!(count(&cluster.text("postgresql.auto.conf")), 1);
}
