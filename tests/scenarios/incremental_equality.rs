//! An incremental backup is, page for page, what a whole one of the same moment would have been.
//!
//! After a load that does to files whatever a server can do, at a moment when nobody writes, an ordinary backup (which takes
//! from its parent what did not change) and one that shares nothing are read out of the repository and compared over all
//! files, and with the server's disk. `PITR_SEED` repeats a run; `PITR_EQUALITY_ROUNDS` and `PITR_EQUALITY_ACTS` make it longer.

mod broken;
mod comparator;
mod interrupted;
mod proof;
mod rounds;
mod shapes;
