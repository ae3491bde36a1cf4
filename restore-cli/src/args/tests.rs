use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::{CommandFactory, Parser};
use pitr::postgres::{Lsn, TimelineId};
use pitr::recovery::{MarkerRef, MarkerSide, RecoveryTarget, TargetTimeline};
use pitr::repository::marker::Outcome;

use super::restore::{OwnerName, Tablespaces};
use super::*;

fn now() -> DateTime<Utc> {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn parse(words: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("pitr").chain(words.split(' ').filter(|word| !word.is_empty())))
}

fn restore(words: &str) -> Result<RestoreOrder, String> {
    let cli = parse(&format!("restore --into /srv/restored {words}")).map_err(|error| error.to_string())?;
    let Command::Restore(args) = cli.command else { panic!("another command") };
    args.validate(now(), Path::new("/home/me")).map_err(|error| error.to_string())
}

fn global(words: &str) -> Result<Global, UsageError> {
    parse(&format!("{words} status")).unwrap().global.validate()
}

#[test]
fn definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_examples() {
    for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.contains("Example"), "{} has none", command.get_name());
        assert!(command.get_about().is_some(), "{} says nothing about itself", command.get_name());
    }
}

#[test]
fn targets_are_read_in_both_spellings() {
    let marker = |side, name: &str, lsn: Option<u64>| RecoveryTarget::Marker {
        side,
        marker: MarkerRef { name: name.to_owned(), lsn: lsn.map(Lsn::new) },
    };
    let time = RecoveryTarget::Time { time: "2026-11-22T11:50:00Z".parse().unwrap() };
    let lsn = RecoveryTarget::Lsn { lsn: Lsn::new(0x300_0060) };
    for (words, target) in [
        ("--latest", RecoveryTarget::Latest),
        ("--immediate", RecoveryTarget::Immediate),
        ("--time 2026-11-22T11:50:00Z", time.clone()),
        ("--target-time 2026-11-22T12:50:00+01", time.clone()),
        ("--lsn 0/3000060", lsn.clone()),
        ("--target-lsn 0/3000060", lsn),
        ("--xid 737", RecoveryTarget::Xid { xid: 737 }),
        ("--target-xid 737", RecoveryTarget::Xid { xid: 737 }),
        ("--before release-42", marker(MarkerSide::Before, "release-42", None)),
        ("--target-name release-42@0/28", marker(MarkerSide::Before, "release-42", Some(0x28))),
        ("--after release-42", marker(MarkerSide::After, "release-42", None)),
    ] {
        assert_eq!(restore(words).map(|order| order.target), Ok(target), "{words}");
    }
    let cli = Cli::try_parse_from(["pitr", "restore", "--into", "x", "--time", "10 min ago"]).unwrap();
    let Command::Restore(args) = cli.command else { panic!("another command") };
    let order = args.validate(now(), Path::new("/home/me")).unwrap();
    assert_eq!(order.target, time);
    assert_eq!(order.into, Path::new("/home/me/x"));
}

#[test]
fn there_is_exactly_one_target() {
    for words in ["", "--latest --immediate", "--time 2026-11-22T11:50:00Z --before x", "--latest --target-name x"] {
        assert!(restore(words).is_err(), "{words:?} was accepted");
    }
}

#[test]
fn restore_options_are_read() {
    let order = restore(
        "--lsn 0/28 --exclusive --target-timeline 3 --target-action pause --backup 20261122T063100Z \
         --tablespace /ts/a=/new/a --tablespace /ts/b\\=c=/new/b --tablespaces-into ts --owner postgres:dba \
         --bin-directory /usr/lib/postgresql/15/bin --threads 4 --start --port 5433 --yes",
    )
    .unwrap();
    assert_eq!(order.timeline, TargetTimeline::Id(TimelineId::new(3).unwrap()));
    assert_eq!(order.target_action, TargetAction::Pause);
    assert_eq!(order.backup.unwrap().to_string(), "20261122T063100Z");
    let path = |text: &str| PathBuf::from(text);
    assert_eq!(
        order.tablespaces,
        Tablespaces {
            moved: vec![("/ts/a".to_owned(), path("/new/a")), ("/ts/b=c".to_owned(), path("/new/b"))],
            others_into: Some(path("/home/me/ts")),
        }
    );
    assert_eq!(order.owner, Some(OwnerName { user: "postgres".to_owned(), group: Some("dba".to_owned()) }));
    assert_eq!((order.port, order.threads.map(std::num::NonZero::get)), (Some(5433), Some(4)));
    assert!(order.exclusive && order.start && order.yes && !order.dry_run);
}

#[test]
fn restore_refuses_what_makes_no_sense() {
    for (words, reason) in [
        ("--latest --exclusive", "--exclusive goes with"),
        ("--time 2026-11-22T11:50:00", "has no time zone"),
        ("--lsn 16", "invalid LSN"),
        ("--xid 1", "invalid transaction"),
        ("--latest --timeline newest", "invalid timeline"),
        ("--latest --backup yesterday", "invalid backup"),
        ("--latest --tablespace /a", "invalid tablespace"),
        ("--latest --tablespace a=/b", "invalid tablespace"),
        ("--latest --tablespace /a=/b=/c", "invalid tablespace"),
        ("--latest --tablespace /a=/b --tablespace /a=/c", "given twice"),
        ("--latest --tablespace /a=/b --tablespace /c=/b", "two tablespaces"),
        ("--latest --owner :dba", "invalid owner"),
        ("--latest --port 5433", "--start"),
        ("--latest --start --dry-run", "cannot be used with"),
        ("--latest --threads 0", "0 is not in"),
        ("--latest --target-action stop", "invalid value"),
    ] {
        let error = restore(words).unwrap_err();
        assert!(error.contains(reason), "{words}: {error}");
    }
    assert!(parse("restore --latest").unwrap_err().to_string().contains("--into"));
}

#[test]
fn marks_are_read() {
    let mark = |words: &str| match parse(&format!("mark {words}")).unwrap().command {
        Command::Mark(args) => args.validate(),
        _ => panic!("another command"),
    };
    let order = mark("release-42 --meta sha=1f3a --meta note=a=b --key 17").unwrap();
    assert_eq!((order.name.as_str(), order.key.as_deref()), ("release-42", Some("17")));
    assert_eq!(order.meta.get("note").map(String::as_str), Some("a=b"));
    assert_eq!(order.timeout, Some(Duration::from_secs(30)));
    assert_eq!(mark("x --no-wait").unwrap().timeout, None);
    assert_eq!(mark("x --timeout 2m").unwrap().timeout, Some(Duration::from_secs(120)));
    for words in ["x@0/28", "x --meta sha", "x --meta =1", "x --meta a=1 --meta a=2", "x --key="] {
        assert!(mark(words).is_err(), "{words} was accepted");
    }
    for words in ["mark", "mark x --timeout soon", "mark x --timeout 2days", "mark x --timeout 1s --no-wait"] {
        assert!(parse(words).is_err(), "{words} was accepted");
    }
}

#[test]
fn finish_needs_an_outcome() {
    let finish = |words: &str| match parse(&format!("finish {words}")).unwrap().command {
        Command::Finish(args) => args.validate().unwrap(),
        _ => panic!("another command"),
    };
    assert_eq!(finish("x --ok").outcome, Outcome::Ok);
    let order = finish("x@0/28 --failed");
    assert_eq!((order.outcome, order.marker.lsn), (Outcome::Failed, Some(Lsn::new(0x28))));
    for words in ["finish x", "finish x --ok --failed"] {
        assert!(parse(words).is_err(), "{words} was accepted");
    }
}

#[test]
fn wal_fetch_takes_names_of_files_only() {
    let fetch = |words: &str| match parse(&format!("wal-fetch {words}")).unwrap().command {
        Command::WalFetch(args) => args.validate(),
        _ => panic!("another command"),
    };
    let order = fetch("--restore 17 000000010000000000000001 pg_wal/RECOVERYXLOG").unwrap();
    assert_eq!(order.restore.as_deref(), Some("17"));
    assert_eq!(order.path, Path::new("pg_wal/RECOVERYXLOG"));
    assert!(fetch("../x y").is_err());
}

#[test]
fn global_options_stand_before_and_after_the_command() {
    for words in ["--cluster main --json info", "info --json --cluster main"] {
        let global = parse(words).unwrap().global.validate().unwrap();
        assert_eq!(global.cluster.unwrap().as_str(), "main");
        assert!(global.json);
    }
    let all = global(
        "--repository s3://b-c-d/p --endpoint https://s3.example.com/ --region eu --path-style -vv --color never",
    )
    .unwrap();
    assert_eq!(all.repository.unwrap().to_string(), "s3://b-c-d/p");
    assert_eq!(all.endpoint.as_deref(), Some("https://s3.example.com"));
    assert_eq!((all.path_style, all.verbosity, all.color), (Some(true), Verbosity::Debug, ColorChoice::Never));
    assert_eq!(global("--path-style=false").unwrap().path_style, Some(false));
    assert_eq!(global("-q").unwrap().verbosity, Verbosity::Quiet);
    assert!(parse("-q -v status").is_err());
}

#[test]
fn agents_are_sockets_or_plain_http() {
    let agent = |text: &str| global(&format!("--agent {text}")).map(|global| global.agent.unwrap());
    for text in ["/run/pitr/main.sock", "unix:/run/pitr/main.sock", "unix:///run/pitr/main.sock"] {
        assert_eq!(agent(text), Ok(AgentAddress::Socket("/run/pitr/main.sock".into())), "{text}");
    }
    assert_eq!(agent("http://db1:8432/"), Ok(AgentAddress::Tcp("db1:8432".to_owned())));
    assert_eq!(agent("http://[::1]:8432"), Ok(AgentAddress::Tcp("[::1]:8432".to_owned())));
    for text in
        ["https://db1:8432", "db1:8432", "http://db1", "http://:1", "http://a/b:1", "unix:relative", "http://u@h:1"]
    {
        assert!(agent(text).is_err(), "{text} was accepted");
    }
}

#[test]
fn empty_variables_of_the_environment_count_as_none() {
    let args = GlobalArgs {
        cluster: Some(String::new()),
        repository: Some(String::new()),
        region: Some(String::new()),
        config: Some(PathBuf::new()),
        ..GlobalArgs::default()
    };
    let global = args.validate().unwrap();
    assert!(global.cluster.is_none() && global.repository.is_none() && global.region.is_none());
    assert!(global.config.is_none());
}
