//! What does not get on, as one text for [`Progress::findings_problem`](crate::archiver::Progress).

use std::sync::{Arc, Mutex, PoisonError};

use crate::archiver::ArchiveProgress;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Recording,
    Upkeep,
}

#[derive(Clone, Debug)]
pub(super) struct Trouble {
    progress: ArchiveProgress,
    texts: Arc<Mutex<[Option<String>; 2]>>,
}

impl Trouble {
    pub(super) fn new(progress: ArchiveProgress) -> Self {
        Self { progress, texts: Arc::default() }
    }

    pub(super) fn set(&self, work: Work, text: Option<String>) {
        let joined = {
            let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
            let [recording, upkeep] = &mut *texts;
            let slot = match work {
                Work::Recording => recording,
                Work::Upkeep => upkeep,
            };
            if *slot == text {
                return;
            }
            *slot = text;
            let joined: Vec<&str> = texts.iter().flatten().map(String::as_str).collect();
            (!joined.is_empty()).then(|| joined.join("; "))
        };
        self.progress.update(|progress| progress.findings_problem = joined);
    }
}
