//! Whatever a person gets wrong is said in words, with the right exit code, before anything is touched.

mod configuration;
mod destination;
mod repository;
mod server;
mod target;
mod wal_fetch;
