//! Against a real PostgreSQL.

mod archiving;
mod backup;
mod conversation;
mod support;
