//! Databases that cannot be used, passwords and TLS.

use std::os::unix::fs::PermissionsExt;

use sandbox::{PostgresOptions, PostgresServer};

use super::databases::Database;
use crate::filled_stream::{TestEnv, synthetic};
use crate::support::stderr_of;

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_be_used_is_reported_in_one_sentence_with_the_exit_code() {
    let env = TestEnv::start().await;
    std::fs::write(env.path("text.db"), "no database, but longer than the header of one".repeat(50)).unwrap();
    let other = rusqlite::Connection::open(env.path("other.db")).unwrap();
    other.execute_batch("create table annotations (x)").unwrap();
    let newer = Database::sqlite(&env, "newer.db");
    newer.indexed(&env, &[]).await;
    newer.rows("insert into migrations (version) values (99)").await;
    let server = Database::postgres().await;
    server.rows("create database latin encoding 'LATIN1' template template0").await;
    let latin = server.address().replace("/postgres", "/latin");
    server.rows("create database foreign_tables template template0").await;
    let foreign = server.address().replace("/postgres", "/foreign_tables");
    let (client, connection) = tokio_postgres::connect(&foreign, tokio_postgres::tls::NoTls).await.unwrap();
    let running = tokio::spawn(connection);
    client.batch_execute("create schema groundling; create table groundling.annotations (x int)").await.unwrap();
    drop(client);
    running.await.unwrap().unwrap();
    let sqlite = |name: &str| format!("sqlite:{}", env.path(name));
    let closed = sandbox::free_address().unwrap().port();
    let cases = [
        ("mysql://u:secret@h/d".to_owned(), 2, "a database is postgres://"),
        ("postgres://u:secret@h/d?sslmode=prefer".to_owned(), 2, "use sslmode=verify-full"),
        ("postgres://u:secret@h/d?sslrootcert=none.pem".to_owned(), 2, "none.pem"),
        ("host=h password=secret colour=red".to_owned(), 2, "the address of PostgreSQL is not valid"),
        ("sqlite:".to_owned(), 2, "followed by the name of a file"),
        (format!("postgres://u:secret@127.0.0.1:{closed}/d"), 1, "is not available"),
        (server.address().replace("/postgres", "/missing"), 1, "database \"missing\" does not exist"),
        (latin, 1, "has the encoding LATIN1, and annotations need UTF8"),
        (foreign, 1, "has tables of another program: choose another database"),
        (sqlite("none/annotations.db"), 1, "cannot be opened: unable to open database file"),
        (sqlite("text.db"), 1, "file is not a database"),
        (sqlite("other.db"), 1, "is the database of another program: choose another file"),
        (sqlite("newer.db"), 1, "have version 99, this program knows up to 2: use a newer groundling"),
    ];
    for (into, code, text) in cases {
        let output = env.groundling(&["index", "--into", &into]).output().await.unwrap();
        let told = stderr_of(&output);
        assert_eq!(output.status.code(), Some(code), "{into}: {told}");
        assert!(told.contains(text) && !told.contains("secret"), "{into}: {told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    }
    let output = newer.index(&env, &["--dataset", "a.b"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", stderr_of(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_come_from_the_address_a_variable_or_a_file_and_tls_is_never_left_out() {
    let env = TestEnv::start().await;
    env.fill(synthetic(2)).await;
    let mut names = rcgen::CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
    names.distinguished_name.push(rcgen::DnType::CommonName, "test");
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = names.self_signed(&key).unwrap().pem();
    let tls = Some((certificate.clone(), key.serialize_pem()));
    let options = PostgresOptions { password: Some("pass word:1".into()), tls, ..PostgresOptions::default() };
    let server = PostgresServer::start(&options).await.unwrap();
    let (trusted, untrusted, passfile) = (env.path("ca.pem"), env.path("other.pem"), env.path("passfile"));
    std::fs::write(&trusted, certificate).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(&untrusted, other.cert.pem()).unwrap();
    std::fs::write(&passfile, format!("127.0.0.1:{}:*:groundling:pass word\\:1\n", server.port())).unwrap();
    std::fs::set_permissions(&passfile, std::fs::Permissions::from_mode(0o600)).unwrap();
    let plain = PostgresServer::start(&PostgresOptions::default()).await.unwrap();

    let url = server.url();
    let encrypted = format!("{url}?sslrootcert={trusted}");
    let with_password = url.replace("groundling@", "groundling:pass%20word%3A1@");
    let cases = [
        // Address, PGPASSWORD, what is said if it fails.
        (encrypted.clone(), Some("pass word:1"), None),
        (format!("{encrypted}&passfile={passfile}"), None, None),
        (format!("{with_password}?sslmode=verify-full&sslrootcert={trusted}"), None, None),
        (with_password.clone(), None, None),
        (encrypted.clone(), Some("wrong secret"), Some("password authentication failed")),
        (encrypted.clone(), None, Some("password missing")),
        (format!("{with_password}?sslrootcert={untrusted}"), None, Some("invalid peer certificate")),
        (format!("{with_password}?sslmode=require"), None, Some("invalid peer certificate")),
        (format!("{}?sslmode=require", plain.url()), None, Some("sslmode=disable connects without TLS")),
    ];
    for (into, password, expected) in cases {
        let mut command = env.groundling(&["index", "--into", &into, "--follow"]);
        command.env("HOME", env.path("nowhere")).env_remove("PGPASSFILE").env_remove("PGPASSWORD");
        if let Some(password) = password {
            command.env("PGPASSWORD", password);
        }
        match expected {
            None => {
                // Without --follow, as it succeeds.
                let mut command = env.groundling(&["index", "--into", &into]);
                command.env("HOME", env.path("nowhere")).env_remove("PGPASSFILE").env_remove("PGPASSWORD");
                command.envs(password.map(|password| ("PGPASSWORD", password)));
                let output = command.output().await.unwrap();
                assert!(output.status.success(), "{into}: {}", stderr_of(&output));
                assert!(!String::from_utf8_lossy(&output.stdout).contains("pass"), "{into}");
            }
            // These errors are permanent: a run that follows ends as well.
            Some(text) => {
                let output = command.output().await.unwrap();
                let told = stderr_of(&output);
                assert_eq!(output.status.code(), Some(1), "{into}: {told}");
                assert!(told.contains(text) && told.contains("cannot be opened"), "{into}: {told}");
                assert!(!told.contains("secret") && !told.contains("word:1") && !told.contains("%20"), "{told}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_reached_through_its_socket_and_by_the_parameters_of_psql() {
    let env = TestEnv::start().await;
    env.fill(synthetic(2)).await;
    let options = PostgresOptions { has_socket: true, ..PostgresOptions::default() };
    let server = PostgresServer::start(&options).await.unwrap();
    let (dir, port) = (server.socket_dir().display(), server.port());
    let cases = [
        format!("postgres://groundling@/postgres?host={dir}&port={port}"),
        // Sockets are never encrypted, whatever is said.
        format!("postgres://groundling@/postgres?host={dir}&port={port}&sslmode=require"),
        format!("host={dir} port={port} user=groundling dbname=postgres sslmode=disable"),
        format!("host=127.0.0.1 port={port} user='groundling' dbname=postgres"),
    ];
    for (place, into) in cases.iter().enumerate() {
        let output = env.groundling(&["index", "--into", into, "--format", "json"]).output().await.unwrap();
        assert!(output.status.success(), "{into}: {}", stderr_of(&output));
        let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(summary["annotations"], if place == 0 { 2 } else { 0 }, "{into}: {summary}");
    }
}
