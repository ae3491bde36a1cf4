//! Logging in: authentication, encryption, and what is said when it fails.

use pitr_agent::postgres::{Error, replication, sql};

use crate::support::{Server, binaries, command, succeed};

/// Certificates of two authorities; the server's is of the first and names `localhost`.
fn make_certificates(server: &Server) {
    let script = r#"
        set -e
        cd "$0"
        authority() { openssl req -new -x509 -days 2 -nodes -subj "/CN=$1" -keyout $1.key -out $1.crt -newkey rsa:2048; }
        leaf() { openssl req -new -nodes -subj "/CN=$2" -keyout $1.key -out $1.csr -newkey rsa:2048
                 printf "$3" > $1.ext
                 openssl x509 -req -in $1.csr -days 2 -CA root.crt -CAkey root.key -CAcreateserial -extfile $1.ext -out $1.crt; }
        authority root; authority other
        leaf server localhost "subjectAltName=DNS:localhost\n"
        leaf client certified "extendedKeyUsage=clientAuth\n"
        chmod 600 *.key
    "#;
    succeed(command("/bin/bash".as_ref()).arg("-c").arg(script).arg(server.data()));
}

fn hardened() -> Option<Server> {
    let server = Server::start(&binaries()?, "");
    make_certificates(&server);
    server.append(
        "postgresql.conf",
        "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\nssl_ca_file = 'root.crt'\n",
    );
    server.sql(
        "SET password_encryption = 'scram-sha-256';
         CREATE ROLE backup LOGIN REPLICATION PASSWORD 'secret';
         SET password_encryption = 'md5';
         CREATE ROLE old LOGIN REPLICATION PASSWORD 'secret';
         CREATE ROLE certified LOGIN REPLICATION;
         CREATE ROLE plain LOGIN PASSWORD 'secret'",
    );
    server.write(
        "pg_hba.conf",
        "local all postgres trust
         local all,replication backup scram-sha-256
         hostssl all,replication certified 127.0.0.1/32 cert
         hostssl all,replication backup 127.0.0.1/32 scram-sha-256
         hostnossl all,replication old 127.0.0.1/32 md5
         hostssl all,replication plain 127.0.0.1/32 password\n",
    );
    server.reload();
    Some(server)
}

async fn sql_login(server: &Server, text: &str) -> Result<String, Error> {
    let session = sql::connect(&server.conninfo_with(text)).await?;
    assert!(session.backend_pid() > 0);
    let row = session
        .query_one(
            "SELECT current_user::text || ' ' || coalesce((SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid()), 'plain')",
            &[],
        )
        .await?;
    session.close().await?;
    Ok(row.get(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_log_in_works() {
    let Some(server) = hardened() else { return };
    let data = server.data();
    let data = data.display();
    let tcp = "host=localhost hostaddr=127.0.0.1 user=backup password=secret";
    let table = [
        (format!("host={} user=backup password=secret", server.socket().display()), "backup plain"),
        (format!("{tcp} sslmode=require"), "backup TLSv1.3"),
        (format!("{tcp} sslmode=allow"), "backup TLSv1.3"),
        (format!("{tcp} sslmode=verify-ca sslrootcert={data}/root.crt"), "backup TLSv1.3"),
        (format!("{tcp} sslmode=verify-full sslrootcert={data}/root.crt"), "backup TLSv1.3"),
        (format!("{tcp} sslmode=verify-full sslrootcert={data}/server.crt"), "backup TLSv1.3"),
        (
            format!("host=127.0.0.1 user=backup password=secret sslmode=verify-ca sslrootcert={data}/root.crt"),
            "backup TLSv1.3",
        ),
        (
            format!("host=127.0.0.1 user=certified sslmode=require sslcert={data}/client.crt sslkey={data}/client.key"),
            "certified TLSv1.3",
        ),
        ("host=127.0.0.1 user=old password=secret".to_owned(), "old plain"),
        ("host=127.0.0.1 user=plain password=secret sslmode=require".to_owned(), "plain TLSv1.3"),
    ];
    for (text, expected) in table {
        match sql_login(&server, &text).await {
            Ok(found) => assert_eq!(found, expected, "{text}"),
            Err(error) => panic!("{text}: {error}\n{}", server.log()),
        }
        if expected.starts_with("plain") {
            continue;
        }
        let mut connection = match replication::connect(&server.conninfo_with(&text)).await {
            Ok(connection) => connection,
            Err(error) => panic!("{text}: {error}\n{}", server.log()),
        };
        let system = connection.identify_system().await.unwrap();
        assert_eq!(
            system.system_identifier.to_string(),
            server.sql("SELECT system_identifier FROM pg_control_system()"),
            "{text}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_says_what_to_do() {
    let Some(server) = hardened() else { return };
    let data = server.data();
    let data = data.display();
    let tcp = "host=localhost hostaddr=127.0.0.1 user=backup password=secret";
    let refused = async |text: String| match sql_login(&server, &text).await {
        Ok(found) => panic!("{text}: logged in as {found}"),
        Err(error) => error,
    };
    let error = refused(format!("{tcp} sslmode=verify-full sslrootcert={data}/other.crt")).await;
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    let error = refused(format!("{tcp} sslmode=verify-ca sslrootcert={data}/other.crt")).await;
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    let error =
        refused(format!("{} sslmode=verify-full sslrootcert={data}/root.crt", tcp.replace("localhost", "db.example")))
            .await;
    assert!(matches!(error, Error::Tls { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("must name the host"));
    let error = refused(format!("{tcp} sslmode=disable")).await;
    assert!(matches!(error, Error::NotAdmitted { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("pg_hba.conf"));
    let error = refused("host=localhost hostaddr=127.0.0.1 user=backup password=wrong".to_owned()).await;
    assert!(matches!(error, Error::AuthenticationFailed { .. } | Error::NotAdmitted { .. }), "{error:?}");
    let error = refused("host=127.0.0.1 user=backup sslmode=require password=wrong".to_owned()).await;
    assert!(matches!(error, Error::AuthenticationFailed { .. }), "{error:?}");
    assert!(!error.to_string().contains("wrong"));
    let error = refused("host=127.0.0.1 user=backup sslmode=require".to_owned()).await;
    assert!(matches!(error, Error::NoPassword { .. }), "{error:?}");
    let conninfo = server.conninfo_with("host=127.0.0.1 user=plain password=secret sslmode=require");
    let error = replication::connect(&conninfo).await.unwrap_err();
    assert!(matches!(error, Error::MissingPrivilege(_)), "{error:?}");
    assert!(error.hint().unwrap().contains("REPLICATION"));
    let conninfo = server.conninfo_with("host=127.0.0.1 user=backup password=wrong sslmode=require");
    let error = replication::connect(&conninfo).await.unwrap_err();
    assert!(matches!(error, Error::AuthenticationFailed { .. }), "{error:?}");
    let error = refused("host=127.0.0.1 user=plain password=secret sslmode=require dbname=nowhere".to_owned()).await;
    assert_eq!(error.sqlstate(), Some("3D000"), "{error:?}");
    let error = sql::connect(&server.conninfo_with("host=/nonexistent user=postgres")).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_passing(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_can_be_cancelled() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, "");
    let conninfo = server.conninfo();
    let session = sql::connect(&conninfo).await.unwrap();
    let (slept, cancelled) = tokio::join!(session.simple("SELECT pg_sleep(60)"), async {
        crate::support::eventually("the statement runs", 10, async || {
            server.sql("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'")
                == "1"
        })
        .await;
        session.cancel(&conninfo).await
    });
    cancelled.unwrap();
    assert_eq!(slept.unwrap_err().sqlstate(), Some("57014"));
    assert!(!session.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_of_the_replication_protocol_are_answered() {
    let Some(bin) = binaries() else { return };
    let server = Server::start(&bin, "");
    let mut connection = replication::connect(&server.conninfo()).await.unwrap();
    assert_eq!(connection.show("wal_segment_size").await.unwrap(), "16MB");
    // READ_REPLICATION_SLOT came with 15.
    let has_read = server.sql("SHOW server_version_num").parse::<u32>().unwrap() >= 150_000;
    if has_read {
        assert_eq!(connection.read_slot("pitr_x").await.unwrap(), None);
    }
    connection.create_slot("pitr_x").await.unwrap();
    assert_eq!(connection.create_slot("pitr_x").await.unwrap_err().sqlstate(), Some("42710"));
    if has_read {
        let slot = connection.read_slot("pitr_x").await.unwrap().unwrap();
        assert!(slot.restart_lsn.is_some());
    }
    let second = pitr::postgres::TimelineId::new(2).unwrap();
    assert_eq!(connection.timeline_history(second).await.unwrap_err().sqlstate(), Some("58P01"));
    connection.drop_slot("pitr_x").await.unwrap();
    // Beyond what the server has: the refusal comes within COPY.
    let far = connection.identify_system().await.unwrap().flush_lsn.advance(1 << 30);
    let replication::Started::Streaming(mut stream) =
        connection.start(None, far, pitr::postgres::TimelineId::FIRST).await.unwrap()
    else {
        panic!("the timeline has not ended")
    };
    assert!(matches!(stream.next().await, Err(Error::Server(_))));
}
