//! Startup and authentication: SCRAM-SHA-256 (bound to the TLS connection where there is one), MD5, clear text, and all
//! that needs no answer (trust, peer, certificates).

use std::io;

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;

use super::framing::{Incoming, Wire, unexpected};
use crate::postgres::error::{Error, Result, ServerMessage};
use crate::postgres::transport::{Login, Transport};

fn protocol(error: io::Error) -> Error {
    Error::Protocol(error.to_string())
}

/// Logs in as a standby would, and waits until the server takes commands.
pub(super) async fn log_in(transport: Transport, login: Login, application_name: &str) -> Result<Wire> {
    let mut wire = Wire::new(transport);
    let user = login.attempted.user.as_str();
    let parameters = [("user", user), ("replication", "true"), ("application_name", application_name)];
    frontend::startup_message(parameters, wire.outgoing()).map_err(protocol)?;
    wire.flush().await?;
    let mut scram: Option<ScramSha256> = None;
    loop {
        match wire.receive().await? {
            Incoming::Other(Message::AuthenticationCleartextPassword) => {
                send_password(&mut wire, password(&login)?).await?;
            }
            Incoming::Other(Message::AuthenticationMd5Password(body)) => {
                let hashed = md5_hash(user.as_bytes(), password(&login)?, body.salt());
                send_password(&mut wire, hashed.as_bytes()).await?;
            }
            Incoming::Other(Message::AuthenticationSasl(body)) => {
                scram = Some(begin_scram(&mut wire, &body, password(&login)?).await?);
            }
            Incoming::Other(Message::AuthenticationSaslContinue(body)) => {
                let scram = scram.as_mut().ok_or_else(out_of_order)?;
                scram.update(body.data()).map_err(protocol)?;
                frontend::sasl_response(scram.message(), wire.outgoing()).map_err(protocol)?;
                wire.flush().await?;
            }
            // Proves that the server knows the password too.
            Incoming::Other(Message::AuthenticationSaslFinal(body)) => {
                scram.as_mut().ok_or_else(out_of_order)?.finish(body.data()).map_err(protocol)?;
            }
            Incoming::Other(Message::AuthenticationOk | Message::BackendKeyData(_)) => {}
            Incoming::Other(Message::ReadyForQuery(_)) => return Ok(wire),
            Incoming::Other(Message::ErrorResponse(body)) => {
                return Err(Error::from_startup(ServerMessage::from(body), &login.attempted));
            }
            message => return Err(unexpected(message, "authentication")),
        }
    }
}

fn out_of_order() -> Error {
    Error::Protocol("a step of SCRAM before its beginning".to_owned())
}

fn password(login: &Login) -> Result<&[u8]> {
    match &login.password {
        Some(password) => Ok(password.expose().as_bytes()),
        None => Err(Error::NoPassword {
            what: format!("the server at {}", login.attempted.server),
            user: login.attempted.user.clone(),
        }),
    }
}

async fn send_password(wire: &mut Wire, password: &[u8]) -> Result<()> {
    frontend::password_message(password, wire.outgoing()).map_err(protocol)?;
    wire.flush().await
}

async fn begin_scram(wire: &mut Wire, body: &AuthenticationSaslBody, password: &[u8]) -> Result<ScramSha256> {
    let (mut plain, mut bound) = (false, false);
    let mut mechanisms = body.mechanisms();
    while let Some(mechanism) = mechanisms.next().map_err(protocol)? {
        plain |= mechanism == SCRAM_SHA_256;
        bound |= mechanism == SCRAM_SHA_256_PLUS;
    }
    let end_point = wire.transport().server_end_point().map(<[u8]>::to_vec);
    let (mechanism, binding) = match end_point {
        Some(end_point) if bound => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(end_point)),
        // "Unrequested" says that we could have: a server that could too then knows that somebody cut its offer.
        Some(_) if plain => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        None if plain => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        _ => return Err(Error::Protocol("the server asks for a kind of SASL that is not known".to_owned())),
    };
    let scram = ScramSha256::new(password, binding);
    frontend::sasl_initial_response(mechanism, scram.message(), wire.outgoing()).map_err(protocol)?;
    wire.flush().await?;
    Ok(scram)
}
