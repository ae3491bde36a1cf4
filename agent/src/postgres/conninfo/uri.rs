//! The form `postgresql://user:password@host:port,host:port/dbname?keyword=value`.

use percent_encoding::percent_decode_str;

use super::{ConnInfoError, Pair, Result};

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];

pub(super) fn is_uri(text: &str) -> bool {
    SCHEMES.iter().any(|scheme| text.starts_with(scheme))
}

pub(super) fn parse(text: &str) -> Result<Vec<Pair>> {
    let rest = SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)).unwrap_or(text);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, dbname) = rest.split_once('/').unwrap_or((rest, ""));
    let mut pairs = Vec::new();
    let hosts = match authority.rsplit_once('@') {
        None => authority,
        Some((credentials, hosts)) => {
            let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
            push(&mut pairs, "user", user)?;
            push(&mut pairs, "password", password)?;
            hosts
        }
    };
    parse_hosts(hosts, &mut pairs)?;
    push(&mut pairs, "dbname", dbname)?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((keyword, value)) = pair.split_once('=') else {
            return Err(ConnInfoError::Malformed(format!("\"=\" is missing in \"{pair}\"")));
        };
        match (decode(keyword)?.as_str(), value) {
            // JDBC's spelling, which libpq takes too.
            ("ssl", "true") => pairs.push(("sslmode".to_owned(), "require".to_owned())),
            (keyword, value) => pairs.push((keyword.to_owned(), decode(value)?)),
        }
    }
    Ok(pairs)
}

fn parse_hosts(text: &str, pairs: &mut Vec<Pair>) -> Result<()> {
    if text.is_empty() {
        return Ok(());
    }
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for item in text.split(',') {
        let (host, port) = match item.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']').ok_or_else(|| malformed(item))?;
                let port = if rest.is_empty() { "" } else { rest.strip_prefix(':').ok_or_else(|| malformed(item))? };
                (host, port)
            }
            None => item.split_once(':').unwrap_or((item, "")),
        };
        hosts.push(decode(host)?);
        ports.push(decode(port)?);
    }
    pairs.push(("host".to_owned(), hosts.join(",")));
    if ports.iter().any(|port| !port.is_empty()) {
        pairs.push(("port".to_owned(), ports.join(",")));
    }
    Ok(())
}

fn malformed(host: &str) -> ConnInfoError {
    ConnInfoError::Malformed(format!("the host \"{host}\" cannot be read"))
}

fn push(pairs: &mut Vec<Pair>, keyword: &str, value: &str) -> Result<()> {
    if !value.is_empty() {
        pairs.push((keyword.to_owned(), decode(value)?));
    }
    Ok(())
}

fn decode(text: &str) -> Result<String> {
    let bytes = text.as_bytes();
    let broken = bytes.iter().enumerate().any(|(at, byte)| {
        *byte == b'%' && !bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    });
    let decoded = percent_decode_str(text).decode_utf8();
    // The text is left out: it may be a password.
    match decoded {
        Ok(decoded) if !broken && !decoded.contains('\0') => Ok(decoded.into_owned()),
        _ => Err(ConnInfoError::Malformed("a percent-encoded part cannot be decoded".to_owned())),
    }
}
