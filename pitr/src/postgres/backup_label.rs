//! `backup_label`: where recovery of a backup begins. Without it a server recovers from the wrong checkpoint.
//!
//! The bytes that the server gave are kept and restored as they are: it reads them back with `fscanf` and is particular
//! about every blank. They are read here only to learn what they say, and to refuse what it would not understand.

use super::{Lsn, SegmentName, TimelineId};

/// A label that a supported server wrote and will accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    bytes: Vec<u8>,
    start_lsn: Lsn,
    start_segment: SegmentName,
    checkpoint_lsn: Lsn,
    tli: TimelineId,
    from_standby: bool,
    start_time: String,
    label: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    #[error("backup_label is not text")]
    Encoding,
    #[error("backup_label has no valid line \"{expected}\" as line {line}")]
    Line { line: usize, expected: &'static str },
    #[error("backup_label does not end with the end of a line")]
    Unterminated,
    #[error("backup_label says timeline {said}, and names a WAL file of timeline {named}")]
    Timeline { said: TimelineId, named: TimelineId },
    #[error("backup_label is of an incremental backup, which the server refuses to start from")]
    Incremental,
    #[error("backup_label has unexpected line {line}: {text:?}")]
    UnexpectedLine { line: usize, text: String },
}

const START: &str = "START WAL LOCATION: ";
const CHECKPOINT: &str = "CHECKPOINT LOCATION: ";
const METHOD: &str = "BACKUP METHOD: ";
const FROM: &str = "BACKUP FROM: ";
const TIME: &str = "START TIME: ";
const LABEL: &str = "LABEL: ";
const TIMELINE: &str = "START TIMELINE: ";
const INCREMENTAL: &str = "INCREMENTAL FROM ";

impl BackupLabel {
    /// # Errors
    /// Anything but the lines that servers from 13 to 18 write, in their order.
    pub fn parse(bytes: &[u8]) -> Result<Self, BackupLabelError> {
        let text = std::str::from_utf8(bytes).map_err(|_| BackupLabelError::Encoding)?;
        let body = text.strip_suffix('\n').ok_or(BackupLabelError::Unterminated)?;
        let mut lines = Lines { lines: body.split('\n'), number: 0 };
        let (start_lsn, start_segment) = lines.next(START, parse_start)?;
        let checkpoint_lsn = lines.next(CHECKPOINT, |text| text.parse().ok())?;
        lines.next(METHOD, |text| (text == "streamed").then_some(()))?;
        let from_standby = lines.next(FROM, |text| match text {
            "primary" | "master" => Some(false),
            "standby" => Some(true),
            _ => None,
        })?;
        let start_time = lines.next(TIME, |text| Some(text.to_owned()))?;
        let label = lines.next(LABEL, |text| Some(text.to_owned()))?;
        let tli: TimelineId = lines.next(TIMELINE, |text| text.parse().ok())?;
        lines.end()?;
        if tli != start_segment.tli() {
            return Err(BackupLabelError::Timeline { said: tli, named: start_segment.tli() });
        }
        Ok(Self {
            bytes: bytes.to_vec(),
            start_lsn,
            start_segment,
            checkpoint_lsn,
            tli,
            from_standby,
            start_time,
            label,
        })
    }

    /// What the server gave, to be written as it is.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The redo position: the first WAL that a restore needs.
    #[must_use]
    pub const fn start_lsn(&self) -> Lsn {
        self.start_lsn
    }

    #[must_use]
    pub const fn start_segment(&self) -> SegmentName {
        self.start_segment
    }

    /// The checkpoint record that recovery reads first.
    #[must_use]
    pub const fn checkpoint_lsn(&self) -> Lsn {
        self.checkpoint_lsn
    }

    #[must_use]
    pub const fn tli(&self) -> TimelineId {
        self.tli
    }

    #[must_use]
    pub const fn from_standby(&self) -> bool {
        self.from_standby
    }

    /// In the server's time zone and words: for people only.
    #[must_use]
    pub fn start_time(&self) -> &str {
        &self.start_time
    }

    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }
}

/// `0/2000028 (file 000000010000000000000002)`
fn parse_start(text: &str) -> Option<(Lsn, SegmentName)> {
    let (lsn, file) = text.split_once(" (file ")?;
    Some((lsn.parse().ok()?, file.strip_suffix(')')?.parse().ok()?))
}

struct Lines<'a> {
    lines: std::str::Split<'a, char>,
    number: usize,
}

impl<'a> Lines<'a> {
    fn next<T>(
        &mut self,
        expected: &'static str,
        parse: impl FnOnce(&'a str) -> Option<T>,
    ) -> Result<T, BackupLabelError> {
        self.number += 1;
        let text = self.lines.next().and_then(|line| line.strip_prefix(expected));
        text.and_then(parse).ok_or(BackupLabelError::Line { line: self.number, expected })
    }

    fn end(&mut self) -> Result<(), BackupLabelError> {
        match self.lines.next() {
            None => Ok(()),
            Some(line) if line.starts_with(INCREMENTAL) => Err(BackupLabelError::Incremental),
            Some(line) => Err(BackupLabelError::UnexpectedLine { line: self.number + 1, text: line.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-22 10:00:00 UTC\nLABEL: pitr 20261122T100000Z\nSTART TIMELINE: 1\n";

    fn error(text: &str) -> BackupLabelError {
        BackupLabel::parse(text.as_bytes()).expect_err(text)
    }

    #[test]
    fn reads_what_servers_write() {
        let label = BackupLabel::parse(WRITTEN.as_bytes()).unwrap();
        assert_eq!(label.bytes(), WRITTEN.as_bytes());
        assert_eq!((label.start_lsn(), label.checkpoint_lsn()), (Lsn::new(0x0200_0028), Lsn::new(0x0200_0060)));
        assert_eq!(label.start_segment().to_string(), "000000010000000000000002");
        assert_eq!((label.tli(), label.from_standby()), (TimelineId::FIRST, false));
        assert_eq!((label.start_time(), label.label()), ("2026-11-22 10:00:00 UTC", "pitr 20261122T100000Z"));
        let of_13 = WRITTEN.replace("primary", "master");
        assert!(!BackupLabel::parse(of_13.as_bytes()).unwrap().from_standby());
        let of_standby = WRITTEN.replace("primary", "standby");
        assert!(BackupLabel::parse(of_standby.as_bytes()).unwrap().from_standby());
    }

    #[test]
    fn every_line_must_be_there_and_right() {
        let lines: Vec<_> = WRITTEN.lines().collect();
        for missing in 0..lines.len() {
            let rest: Vec<_> = lines.iter().enumerate().filter(|(index, _)| *index != missing).collect();
            let text: String = rest.iter().map(|(_, line)| format!("{line}\n")).collect();
            assert!(matches!(error(&text), BackupLabelError::Line { line, .. } if line == missing + 1), "{text}");
        }
        for (from, to) in
            [("0/2000028", "2000028"), ("(file", "(of"), ("streamed", "pg_start_backup"), ("y\n", "y\r\n")]
        {
            assert!(matches!(error(&WRITTEN.replacen(from, to, 1)), BackupLabelError::Line { .. }), "{from}");
        }
        assert_eq!(error(WRITTEN.trim_end()), BackupLabelError::Unterminated);
        assert_eq!(BackupLabel::parse(b"\xFF\n").unwrap_err(), BackupLabelError::Encoding);
    }

    #[test]
    fn a_label_with_a_line_break_is_not_taken_for_more_lines() {
        let text = WRITTEN.replace("LABEL: pitr", "LABEL: a\nSTART TIMELINE: 1\npitr");
        assert!(matches!(error(&text), BackupLabelError::UnexpectedLine { line: 8, .. }));
    }

    #[test]
    fn timelines_must_agree() {
        let expected = BackupLabelError::Timeline { said: TimelineId::new(2).unwrap(), named: TimelineId::FIRST };
        assert_eq!(error(&WRITTEN.replace("TIMELINE: 1", "TIMELINE: 2")), expected);
    }

    #[test]
    fn incremental_backups_are_refused() {
        let text = format!("{WRITTEN}INCREMENTAL FROM LSN: 0/2000028\nINCREMENTAL FROM TLI: 1\n");
        assert_eq!(error(&text), BackupLabelError::Incremental);
    }
}
