//! Parameters that a restored cluster must not take over from its origin, by version. A server refuses to start with a
//! parameter that it does not know, so each stands only where its version has it.

use crate::postgres::MajorVersion;

/// A parameter that gets a fixed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Neutralized {
    pub(super) name: &'static str,
    pub(super) value: &'static str,
    from: MajorVersion,
    until: MajorVersion,
}

const fn always(name: &'static str, value: &'static str) -> Neutralized {
    Neutralized { name, value, from: MajorVersion::V13, until: MajorVersion::V18 }
}

const fn from(version: MajorVersion, name: &'static str, value: &'static str) -> Neutralized {
    Neutralized { name, value, from: version, until: MajorVersion::V18 }
}

const fn until(version: MajorVersion, name: &'static str, value: &'static str) -> Neutralized {
    Neutralized { name, value, from: MajorVersion::V13, until: version }
}

/// In the order in which they are written. The server applies settings in that order and refuses a second target, so every
/// other target is emptied before the real one is set.
const NEUTRALIZED: [Neutralized; 19] = [
    // Another recovery's target, or commands that belong to the origin's archive (one of them deletes from it).
    always("recovery_target", ""),
    always("recovery_target_name", ""),
    always("recovery_target_time", ""),
    always("recovery_target_xid", ""),
    always("archive_cleanup_command", ""),
    always("recovery_end_command", ""),
    always("recovery_min_apply_delay", "0"),
    // A copy follows nobody.
    always("primary_conninfo", ""),
    always("primary_slot_name", ""),
    until(MajorVersion::V15, "promote_trigger_file", ""),
    from(MajorVersion::V17, "sync_replication_slots", "off"),
    // It must not write into the archive it was restored from.
    always("archive_mode", "off"),
    always("archive_command", ""),
    from(MajorVersion::V15, "archive_library", ""),
    // Commits would wait for ever for the standbys of the origin.
    always("synchronous_standby_names", ""),
    from(MajorVersion::V17, "synchronized_standby_slots", ""),
    // A subscription would connect to its publisher and take the changes that are meant for the origin.
    always("max_logical_replication_workers", "0"),
    // Files of the server that runs beside it.
    always("external_pid_file", ""),
    until(MajorVersion::V14, "stats_temp_directory", "pg_stat_tmp"),
];

/// Settings of the recovery itself.
const RECOVERY: [&str; 5] = [
    "restore_command",
    "recovery_target_timeline",
    "recovery_target_lsn",
    "recovery_target_inclusive",
    "recovery_target_action",
];

pub(super) fn neutralized(version: MajorVersion) -> impl Iterator<Item = &'static Neutralized> {
    NEUTRALIZED.iter().filter(move |parameter| parameter.from <= version && version <= parameter.until)
}

/// Whether a line that sets `name` is dropped from `postgresql.auto.conf`: ours replaces it, or the version has no such
/// parameter any more.
pub(super) fn is_replaced(name: &str) -> bool {
    RECOVERY.contains(&name) || NEUTRALIZED.iter().any(|parameter| parameter.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_get_only_what_they_know() {
        let has = |version, name: &str| neutralized(version).any(|parameter| parameter.name == name);
        for (name, first, last) in [
            ("promote_trigger_file", MajorVersion::V13, MajorVersion::V15),
            ("stats_temp_directory", MajorVersion::V13, MajorVersion::V14),
            ("archive_library", MajorVersion::V15, MajorVersion::V18),
            ("sync_replication_slots", MajorVersion::V17, MajorVersion::V18),
            ("synchronized_standby_slots", MajorVersion::V17, MajorVersion::V18),
            ("archive_mode", MajorVersion::V13, MajorVersion::V18),
        ] {
            for version in MajorVersion::ALL {
                assert_eq!(has(version, name), first <= version && version <= last, "{name} in {version}");
            }
        }
    }
}
