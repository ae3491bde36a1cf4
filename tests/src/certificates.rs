//! A certificate authority and server certificates for TLS tests, made by the `openssl` program.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{Account, Scratch};

/// A certificate and its key, and the authority that signed it.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Makes an authority and a certificate of `names` (host names and addresses) in a directory `tls-<first name>`.
///
/// # Errors
/// `openssl` is missing or fails.
pub fn issue(scratch: &Scratch, names: &[&str]) -> Result<Certificate> {
    let first = names.first().context("a certificate needs a name")?;
    let directory = scratch.directory(&format!("tls-{first}"))?;
    let made = Certificate {
        authority: directory.join("ca.crt"),
        certificate: directory.join("server.crt"),
        key: directory.join("server.key"),
    };
    let alternatives: Vec<String> = names
        .iter()
        .map(|name| if name.parse::<std::net::IpAddr>().is_ok() { format!("IP:{name}") } else { format!("DNS:{name}") })
        .collect();
    let extensions = directory.join("extensions");
    std::fs::write(&extensions, format!("subjectAltName={}\nbasicConstraints=CA:FALSE\n", alternatives.join(",")))?;
    Account::of_servers()?.own(&extensions)?;
    openssl(&directory, "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=pitr-test-ca -keyout ca.key -out ca.crt")?;
    openssl(
        &directory,
        &format!("req -new -newkey rsa:2048 -nodes -subj /CN={first} -keyout server.key -out server.csr"),
    )?;
    openssl(
        &directory,
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out server.crt",
    )?;
    Ok(made)
}

fn openssl(directory: &Path, arguments: &str) -> Result<()> {
    let mut command: Command = Account::of_servers()?.command("openssl");
    let output = command.args(arguments.split(' ')).current_dir(directory).output().context("start openssl")?;
    ensure!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
