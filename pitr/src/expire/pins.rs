//! Pins, set and released.

use std::collections::BTreeSet;

use super::condemned::damage;
use crate::clock::Clock;
use crate::repository::catalog::DamagedObject;
use crate::repository::pin::{Pin, PinRelease, PinSubject};
use crate::repository::{LineageObject, LineageStore, NoteId, Result};

/// Those in force, oldest first, and documents that cannot be read.
///
/// # Errors
/// The store fails.
pub async fn load_pins(lineage: &LineageStore) -> Result<(Vec<Pin>, Vec<DamagedObject>)> {
    let layout = lineage.layout();
    let (mut set, mut released) = (Vec::new(), BTreeSet::new());
    for meta in lineage.list(&layout.pins()).await? {
        match layout.classify(&meta.key) {
            Some(LineageObject::Pin(id)) => set.push(id),
            Some(LineageObject::PinRelease(id)) => {
                released.insert(id);
            }
            _ => {}
        }
    }
    let (mut pins, mut damaged) = (Vec::new(), Vec::new());
    for id in set.into_iter().filter(|id| !released.contains(id)) {
        let key = layout.pin(&id);
        match lineage.get::<Pin>(&key).await {
            Ok(pin) => pins.push(pin),
            Err(error) if error.is_not_found() => {}
            Err(error) => match damage(&error) {
                Some(reason) => damaged.push(DamagedObject { key: key.to_string(), reason }),
                None => return Err(error),
            },
        }
    }
    Ok((pins, damaged))
}

/// Keeps `subject` until it is released.
///
/// # Errors
/// The store fails.
pub async fn pin(
    lineage: &LineageStore,
    subject: PinSubject,
    reason: Option<String>,
    who: Option<String>,
    clock: &dyn Clock,
) -> Result<Pin> {
    let time = clock.now();
    let pin = Pin { id: NoteId::new(time, rand::random()), subject, reason, who, time };
    lineage.create(&lineage.layout().pin(&pin.id), &pin).await?;
    Ok(pin)
}

/// Takes a pin back.
///
/// # Errors
/// The store fails.
pub async fn release(lineage: &LineageStore, pin: &Pin, who: Option<String>, clock: &dyn Clock) -> Result<()> {
    let release = PinRelease { id: pin.id.clone(), who, time: clock.now() };
    match lineage.create(&lineage.layout().pin_release(&pin.id), &release).await {
        // Somebody else released it.
        Err(crate::repository::Error::Storage(error)) if error.kind() == crate::storage::ErrorKind::AlreadyExists => {
            Ok(())
        }
        created => created.map(drop),
    }
}
