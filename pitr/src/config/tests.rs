use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::document::Document;
use super::*;
use crate::storage::options::{Checksums, CreateOnly, ServerSideEncryption};

const MINIMAL: &str = "cluster = \"main\"\n[repository]\nurl = \"file:///var/lib/pitr\"\n";

fn documented() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/agent.toml");
    std::fs::read_to_string(path).unwrap()
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("main.toml"))
}

/// All sections, without where the keys stand.
fn sections(config: &Config) -> String {
    let Config { cluster, postgres, repository, wal, backup, retention, drill, http, .. } = config;
    format!("{:#?}", (cluster, postgres, repository, wal, backup, retention, drill, http))
}

fn uncommented(text: &str, wanted: impl Fn(&str) -> bool) -> String {
    let key = |line: &str| line.starts_with('#') && line.as_bytes().get(1).is_some_and(u8::is_ascii_lowercase);
    let lines = text.lines().map(|line| if key(line) && wanted(line) { line.trim_start_matches('#') } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn documented_defaults_are_the_defaults() {
    let text = documented();
    let defaults = uncommented(&text, |line| !line.ends_with("# example"));
    assert_ne!(defaults, text);
    assert_eq!(sections(&parse(&defaults).unwrap()), sections(&parse(&text).unwrap()));
}

#[test]
fn every_key_is_documented_and_every_example_is_valid() {
    let text = uncommented(&documented(), |_| true).replace("sse = \"bucket\"", "sse = \"aws:kms\"");
    let text = text.replace("listen = \"\"", "listen = \"127.0.0.1:8432\"");
    let config = parse(&text).unwrap();
    assert_eq!(config.wal.max_retained, Some(ByteSize::gib(50)));

    let mut set = BTreeSet::new();
    let mut section = "";
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((key, _)) = line.split_once(" = ") {
            set.insert(format!("{section}.{key}"));
        }
    }
    let mut document = Document::parse(&text);
    drop(document.section(""));
    PostgresConfig::read(&mut document.section("postgres"));
    RepositoryConfig::read(&mut document.section("repository"));
    WalConfig::read(&mut document.section("wal"), "main");
    BackupConfig::read(&mut document.section("backup"));
    RetentionConfig::read(&mut document.section("retention"));
    DrillConfig::read(&mut document.section("drill"));
    HttpConfig::read(&mut document.section("http"));
    let mut known: BTreeSet<_> = document
        .known()
        .iter()
        .flat_map(|(section, keys)| keys.iter().map(move |key| format!("{section}.{key}")))
        .collect();
    known.insert(".cluster".to_owned());
    assert_eq!(known, set);
}

#[test]
fn works_with_little() {
    let config = parse(MINIMAL).unwrap();
    assert_eq!(config.wal.flush_interval, Duration::from_secs(1));
    assert_eq!(config.wal.slot, "pitr_main");
    assert_eq!(config.backup.schedule.as_deref(), Some("0 2 * * *"));
    assert_eq!(config.http.listen, None);
    let error = config.connection().unwrap_err().to_string();
    assert_eq!(
        error,
        "main.toml: postgres.connection: missing, for example \"host=/var/run/postgresql user=postgres\""
    );
    let url = "file:///var/lib/pitr".parse().unwrap();
    assert_eq!(sections(&Config::for_repository("main".parse().unwrap(), url)), sections(&config));
}

#[test]
fn store_is_opened_as_configured() {
    let text = r#"
        cluster = "main"
        [repository]
        url = "s3://backups/pitr"
        endpoint = "https://s3.example.com/"
        region = "eu-west-1"
        path_style = true
        access_key_id = "AKIA"
        secret_access_key = { env = "SECRET" }
        part_size = "64MiB"
        max_parts = 1000
        checksums = "required"
        create_only = "emulated"
        sse = "aws:kms"
        kms_key = "alias/x"
        storage_class = "STANDARD_IA"
        tags = { team = "db", app = "pitr" }
        ca_file = "/etc/ca.pem"
        proxy = { env = "PROXY" }
        connect_timeout = "2s"
        stall_timeout = "1m"
        retry_deadline = "10m"
        concurrency = 8
    "#;
    let config = parse(text).unwrap();
    let options = config
        .repository
        .storage_options(&Environment::from_iter([("SECRET", "shh"), ("PROXY", "http://u:p@proxy:3128")]))
        .unwrap();
    assert_eq!(options.s3.endpoint.as_deref(), Some("https://s3.example.com"));
    assert_eq!(options.s3.region.as_deref(), Some("eu-west-1"));
    assert!(options.s3.path_style);
    let credentials = options.s3.credentials.as_ref().unwrap();
    assert_eq!((credentials.access_key_id.as_str(), credentials.secret_access_key.expose().as_str()), ("AKIA", "shh"));
    assert_eq!((options.s3.part_size_bytes, options.s3.max_parts), (64 << 20, 1000));
    assert!(options.s3.multipart_threshold_bytes >= options.s3.part_size_bytes);
    assert_eq!((options.s3.checksums, options.s3.create_only), (Checksums::Required, CreateOnly::Emulated));
    assert_eq!(options.s3.encryption, ServerSideEncryption::Kms { key_id: Some("alias/x".to_owned()) });
    assert_eq!(options.s3.storage_class.as_deref(), Some("STANDARD_IA"));
    assert_eq!(options.s3.tags.len(), 2);
    assert_eq!(options.s3.ca_file.as_deref(), Some(Path::new("/etc/ca.pem")));
    assert_eq!(options.s3.proxy.as_ref().unwrap().expose(), "http://u:p@proxy:3128");
    assert_eq!(options.s3.connect_timeout, Duration::from_secs(2));
    assert_eq!(options.s3.stall_timeout, Duration::from_secs(60));
    assert_eq!(options.retry.deadline, Duration::from_secs(600));
    assert_eq!(options.concurrency.requests, 8);

    let error = config.repository.storage_options(&Environment::default()).unwrap_err();
    assert!(matches!(error, SecretError::Env(name) if name == "PROXY"));
    assert!(!format!("{options:?}").contains("shh"));
}

#[test]
fn later_findings_name_the_line() {
    let config = parse(&format!("{MINIMAL}[backup]\nschedule = \"0 25 * * *\"\n")).unwrap();
    let error = config.refuse("backup.schedule", "no such hour");
    assert_eq!(error.to_string(), "main.toml:5: backup.schedule: no such hour");
}

/// One small file for each rule: `valid/*.toml` is accepted, `invalid/*.toml` refused with the text of `*.stderr` beside it.
#[test]
fn samples_are_accepted_and_refused_with_the_expected_words() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/samples");
    let files = |folder: &str| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(samples.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
    };
    let parse_file =
        |path: &Path| Config::parse(&std::fs::read_to_string(path).unwrap(), Path::new(path.file_name().unwrap()));
    let valid = files("valid");
    assert!(!valid.is_empty());
    for path in valid {
        parse_file(&path).unwrap_or_else(|error| panic!("{} was refused:\n{error}", path.display()));
    }
    let invalid = files("invalid");
    assert!(!invalid.is_empty());
    let mut wrong = Vec::new();
    for path in invalid {
        let message = match parse_file(&path) {
            Ok(_) => "accepted\n".to_owned(),
            Err(error) => format!("{error}\n"),
        };
        let expected = path.with_extension("stderr");
        if std::fs::read_to_string(&expected).ok().as_ref() != Some(&message) {
            if std::env::var_os("UPDATE_SAMPLES").is_some() {
                std::fs::write(&expected, &message).unwrap();
            }
            wrong.push(format!("{}:\n{message}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
