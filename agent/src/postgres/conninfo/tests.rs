use super::*;

fn environment() -> Environment {
    Environment {
        password: None,
        passfile: None,
        home: Some("/nonexistent/postgres".into()),
        user: Some("postgres".to_owned()),
    }
}

fn parse(text: &str) -> Result<ConnInfo> {
    ConnInfo::parse(text, &environment())
}

fn endpoints_of(text: &str) -> Vec<String> {
    parse(text).unwrap().endpoints.iter().map(ToString::to_string).collect()
}

#[test]
fn defaults_are_those_of_a_local_server() {
    let conninfo = parse("").unwrap();
    assert_eq!(endpoints_of(""), ["/var/run/postgresql/.s.PGSQL.5432"]);
    assert_eq!((conninfo.user.as_str(), conninfo.dbname.as_str()), ("postgres", "postgres"));
    assert_eq!(conninfo.sslmode, SslMode::Prefer);
    assert_eq!(conninfo.passfile.unwrap().to_str(), Some("/nonexistent/postgres/.pgpass"));
    assert!(ConnInfo::parse("host=/tmp", &Environment::default()).is_err());
}

#[test]
fn quoting_is_that_of_libpq() {
    let conninfo = parse(r"user = 'o''  password='p\'\\ w' dbname=a\ b").map(|_| ());
    assert!(matches!(conninfo, Err(ConnInfoError::Malformed(_))), "{conninfo:?}");
    let conninfo = parse(r"user='a b'  password = 'p\'\\ w' dbname=a\ b  application_name=''").unwrap();
    assert_eq!(conninfo.user, "a b");
    assert_eq!(conninfo.password.unwrap().expose(), r"p'\ w");
    assert_eq!(conninfo.dbname, "a b");
    assert_eq!(conninfo.application_name, None);
    for text in ["host", "host =", "=x", "user='a", "host localhost"] {
        let refused = parse(text).is_err();
        assert_eq!(refused, text != "host =", "{text:?}");
    }
}

#[test]
fn uris_say_the_same() {
    let conninfo =
        parse("postgresql://backup:p%40ss@db1:5433,[::1]:5434/app?sslmode=require&connect_timeout=3").unwrap();
    assert_eq!(conninfo.user, "backup");
    assert_eq!(conninfo.password.unwrap().expose(), "p@ss");
    assert_eq!(conninfo.dbname, "app");
    assert_eq!(conninfo.sslmode, SslMode::Require);
    assert_eq!(conninfo.connect_timeout, Duration::from_secs(3));
    assert_eq!(endpoints_of("postgres://db1:5433,[::1]:5434/"), ["db1:5433", "[::1]:5434"]);
    assert_eq!(endpoints_of("postgresql://%2Ftmp%2Fsocket:5440"), ["/tmp/socket/.s.PGSQL.5440"]);
    assert_eq!(endpoints_of("postgresql:///?host=/tmp/s&port=6000"), ["/tmp/s/.s.PGSQL.6000"]);
    for text in ["postgresql://[::1", "postgresql://h%zz", "postgresql://h/?sslmode", "postgresql://h/?a%00=b"] {
        assert!(parse(text).is_err(), "{text:?} was accepted");
    }
}

#[test]
fn lists_of_hosts_and_ports_go_together() {
    assert_eq!(endpoints_of("host=a,b port=1,2"), ["a:1", "b:2"]);
    assert_eq!(endpoints_of("host=a,b port=1"), ["a:1", "b:1"]);
    assert_eq!(endpoints_of("host=a,b port=,2"), ["a:5432", "b:2"]);
    assert_eq!(parse("host=db hostaddr=10.0.0.1").unwrap().endpoints[0].hostaddr, Some([10, 0, 0, 1].into()));
    assert_eq!(endpoints_of("hostaddr=10.0.0.1"), ["10.0.0.1:5432"]);
    for text in ["host=a,b port=1,2,3", "host=a,b hostaddr=10.0.0.1", "port=0", "port=65536", "hostaddr=a"] {
        assert!(parse(text).is_err(), "{text:?} was accepted");
    }
}

#[test]
fn unknown_keywords_come_with_a_suggestion() {
    assert_eq!(
        parse("hots=a").unwrap_err(),
        ConnInfoError::UnknownKeyword { keyword: "hots".to_owned(), suggestion: Some("host".to_owned()) }
    );
    assert_eq!(
        parse("ssl_mode=a").unwrap_err().to_string(),
        "unknown connection keyword \"ssl_mode\", did you mean \"sslmode\"?"
    );
    assert_eq!(parse("service=x").unwrap_err(), ConnInfoError::Unsupported("service".to_owned()));
    assert_eq!(
        parse("load_balance_hosts=random").unwrap_err().to_string(),
        "the connection keyword \"load_balance_hosts\" is not supported"
    );
}

#[test]
fn one_of_several_servers_is_chosen_by_what_it_is() {
    use TargetSession::*;
    for target in [Any, ReadWrite, ReadOnly, Primary, Standby, PreferStandby] {
        let conninfo = parse(&format!("host=a,b target_session_attrs={}", target.as_str())).unwrap();
        assert_eq!(conninfo.target_session, target);
        let chosen = conninfo.endpoints[1].clone();
        let only = conninfo.only(&chosen);
        assert_eq!((only.endpoints, only.target_session), (vec![chosen], Any));
    }
    assert_eq!(parse("host=a").unwrap().target_session, Any);
    assert_eq!(parse("postgresql://a,b/?target_session_attrs=primary").unwrap().target_session, Primary);
    let refused = parse("target_session_attrs=master").unwrap_err().to_string();
    assert!(refused.contains("prefer-standby"), "{refused}");
}

#[test]
fn weak_modes_do_not_go_with_public_roots() {
    assert_eq!(parse("sslrootcert=system").unwrap().sslmode, SslMode::VerifyFull);
    assert!(parse("sslrootcert=system sslmode=require").is_err());
    assert_eq!(parse("sslrootcert=/r.crt sslmode=require").unwrap().sslmode, SslMode::VerifyCa);
    assert_eq!(
        parse("sslmode=verify-full").unwrap().sslrootcert,
        Some(RootCertificates::File("/nonexistent/postgres/.postgresql/root.crt".into()))
    );
    assert!(parse("sslmode=verify_full").is_err());
}

#[test]
fn shows_no_password() {
    let conninfo = parse("password=hunter2").unwrap();
    assert!(!format!("{conninfo:?}").contains("hunter2"));
    let error = parse("postgresql://u:hun%ter2@h").unwrap_err();
    assert!(!error.to_string().contains("ter2"));
}
