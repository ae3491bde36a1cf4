//! The threads that copy. They are a backup's own, because niceness cannot be taken back without privileges.

use std::io;
use std::thread;

use tokio::sync::oneshot;
use tracing::warn;

use super::error::CopyError;

/// As `/proc` and `top` show it.
const NAME: &str = "backup-copy";

/// Runs `work` on a thread of its own, which yields to others by `nice`. Linux orders what a thread reads from the disk by
/// its niceness too, where the disk's scheduler knows priorities.
pub fn spawn<T: Send + 'static>(
    nice: u8,
    work: impl FnOnce() -> Result<T, CopyError> + Send + 'static,
) -> io::Result<impl Future<Output = Result<T, CopyError>> + Send> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new().name(NAME.to_owned()).spawn(move || {
        if let Err(error) = yield_to_others(nice) {
            warn!(%error, nice, "the niceness of a backup could not be set");
        }
        // Whoever waits may have gone.
        let _ = sender.send(work());
    })?;
    Ok(async move { receiver.await.unwrap_or_else(|_| Err(CopyError::Broken("a thread panicked".to_owned()))) })
}

/// Of this thread alone: on Linux `PRIO_PROCESS` and 0 are the thread that asks (setpriority(2)).
fn yield_to_others(nice: u8) -> rustix::io::Result<()> {
    let nice = i32::from(nice);
    // Below what the whole agent was given there is no way back.
    if rustix::process::getpriority_process(None)? < nice {
        rustix::process::setpriority_process(None, nice)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn niceness() -> i32 {
        rustix::process::getpriority_process(None).unwrap()
    }

    #[tokio::test]
    async fn niceness_is_that_of_the_thread_alone() {
        let before = niceness();
        let wanted = (before.max(0) + 3).min(19);
        let ran = spawn(wanted as u8, || {
            let name = thread::current().name().map(str::to_owned);
            Ok((niceness(), name))
        });
        assert_eq!(ran.unwrap().await.unwrap(), (wanted, Some(NAME.to_owned())));
        assert_eq!(niceness(), before);
        let never_less = spawn(0, || Ok(niceness()));
        assert_eq!(never_less.unwrap().await.unwrap(), before);
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let ran = spawn(0, || -> Result<(), CopyError> { panic!("on purpose") });
        assert!(matches!(ran.unwrap().await, Err(CopyError::Broken(_))));
    }
}
