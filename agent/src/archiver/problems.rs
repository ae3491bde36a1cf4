//! What does not get on, by where, as one text for [`Progress::problem`](super::Progress).

use std::sync::{Arc, Mutex, PoisonError};

use super::progress::ArchiveProgress;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Stream,
    Upload,
    Lease,
    /// What `archive_command` handed over.
    Push,
    /// What stays true until a person has looked: a hole, a fork.
    Archive,
}

#[derive(Clone, Debug)]
pub(crate) struct Problems {
    progress: ArchiveProgress,
    texts: Arc<Mutex<[Option<String>; 5]>>,
}

impl Problems {
    pub(super) fn new(progress: ArchiveProgress) -> Self {
        Self { progress, texts: Arc::default() }
    }

    pub(crate) fn set(&self, place: Place, text: Option<String>) {
        let joined = {
            let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
            let [stream, upload, lease, push, archive] = &mut *texts;
            let slot = match place {
                Place::Stream => stream,
                Place::Upload => upload,
                Place::Lease => lease,
                Place::Push => push,
                Place::Archive => archive,
            };
            if *slot == text {
                return;
            }
            *slot = text;
            let joined: Vec<&str> = texts.iter().rev().flatten().map(String::as_str).collect();
            (!joined.is_empty()).then(|| joined.join("; "))
        };
        self.progress.update(|progress| progress.problem = joined);
    }

    pub(crate) fn clear(&self, place: Place) {
        self.set(place, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lasting_ones_come_first_and_each_is_cleared_alone() {
        let progress = ArchiveProgress::default();
        let problems = Problems::new(progress.clone());
        problems.set(Place::Stream, Some("no server".to_owned()));
        problems.set(Place::Archive, Some("a hole".to_owned()));
        assert_eq!(progress.now().problem.as_deref(), Some("a hole; no server"));
        problems.clear(Place::Archive);
        assert_eq!(progress.now().problem.as_deref(), Some("no server"));
        problems.clear(Place::Stream);
        assert_eq!(progress.now().problem, None);
    }
}
