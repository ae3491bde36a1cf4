//! The primary's host is lost, with its disk: what is restored from the repository is the ledger without its end, and the end
//! that is missing is short.

mod idle;
mod leases;
mod rounds;
mod tails;
