//! `[postgres]`: the server to protect.

use std::path::PathBuf;

use super::SecretSource;
use super::document::Section;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostgresConfig {
    /// libpq keywords or a URI, without a password.
    pub connection: Option<String>,
    pub password: Option<SecretSource>,
    /// Where `postgres` and `pg_ctl` of the server's version are.
    pub bin_directory: Option<PathBuf>,
}

impl PostgresConfig {
    pub(super) fn read(section: &mut Section<'_, '_>) -> Self {
        Self {
            connection: section.parsed("connection", check_connection),
            password: section.get("password"),
            bin_directory: section.get("bin_directory"),
        }
    }
}

/// The words of a connection are the business of whoever connects; here it is only kept free of secrets.
pub(super) fn check_connection(text: &str) -> Result<String, &'static str> {
    let text = text.trim();
    if text.is_empty() {
        return Err("empty, for example \"host=/var/run/postgresql user=postgres\"");
    }
    let with_password = match text.split_once("://") {
        Some((_, rest)) => {
            let (authority, parameters) = rest.split_once('?').unwrap_or((rest, ""));
            let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
            user.contains(':') || parameters.split('&').any(|parameter| parameter.starts_with("password="))
        }
        None => text.match_indices("password").any(|(at, word)| {
            let starts =
                text.get(..at).is_some_and(|before| before.is_empty() || before.ends_with(char::is_whitespace));
            starts && text.get(at + word.len()..).is_some_and(|after| after.trim_start().starts_with('='))
        }),
    };
    if with_password {
        return Err(
            "a password does not stand in the configuration, write password = { file = \"/absolute/path\" } or \
                    { env = \"NAME\" } on a line of its own",
        );
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_holds_no_password() {
        for text in [
            "host=db password=x",
            "password = x",
            "host=a\tpassword='x y'",
            "postgres://me:pw@host/db",
            "postgresql://me@host/db?sslmode=require&password=x",
        ] {
            assert!(check_connection(text).is_err(), "{text:?} was accepted");
        }
        for text in [
            "host=/var/run/postgresql user=postgres",
            "postgres://me@host:5432/db?sslmode=require",
            "host=db application_name=password dbname=my_password=",
            "host=db passfile=/etc/pitr/pgpass",
        ] {
            assert_eq!(check_connection(text), Ok(text.to_owned()));
        }
    }
}
