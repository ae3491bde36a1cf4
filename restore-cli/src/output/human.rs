//! Amounts and spans as people read them.

use chrono::TimeDelta;

/// Three significant digits with a binary unit: `1.43 GiB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // Sizes that lose digits here are shown with three anyway.
    let mut value = bytes as f64 / 1024.0;
    let mut units = UNITS.iter();
    let mut unit = units.next().unwrap_or(&"KiB");
    while value >= 999.5 {
        let Some(larger) = units.next() else { break };
        unit = larger;
        value /= 1024.0;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

/// The two largest units: `2 h 5 min`. Spans below zero count as none.
pub fn span(span: TimeDelta) -> String {
    let milliseconds = u64::try_from(span.num_milliseconds()).unwrap_or(0);
    let seconds = milliseconds / 1000;
    match seconds {
        0..10 if milliseconds % 1000 >= 100 => format!("{}.{} s", seconds, milliseconds % 1000 / 100),
        0..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 { format!("{large} {large_unit}") } else { format!("{large} {large_unit} {small} {small_unit}") }
}

/// As [`span`], of seconds.
pub fn seconds(seconds: f64) -> String {
    let span_of =
        std::time::Duration::try_from_secs_f64(seconds.max(0.0)).ok().and_then(|d| TimeDelta::from_std(d).ok());
    span(span_of.unwrap_or(TimeDelta::MAX))
}

/// `1 backup`, `2 backups`.
pub fn count(number: impl Into<u64>, noun: &str) -> String {
    let number = number.into();
    if number == 1 { format!("1 {noun}") } else { format!("{} {noun}s", grouped(number)) }
}

/// Digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (size, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10 * 1024, "10.0 KiB"),
            (100 * 1024, "100 KiB"),
            (1023 * 1024, "1.00 MiB"),
            (16 << 20, "16.0 MiB"),
            (1_535_000_000, "1.43 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }

    #[test]
    fn spans_have_two_units() {
        for (milliseconds, text) in [
            (-5, "0 s"),
            (0, "0 s"),
            (9_000, "9 s"),
            (1_250, "1.2 s"),
            (59_999, "59 s"),
            (60_000, "1 min"),
            (123_000, "2 min 3 s"),
            (7_500_000, "2 h 5 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(span(TimeDelta::milliseconds(milliseconds)), text);
        }
    }

    #[test]
    fn counts_agree_with_their_noun() {
        assert_eq!(count(1_u64, "backup"), "1 backup");
        assert_eq!(count(0_u64, "backup"), "0 backups");
        assert_eq!(count(1_234_567_u64, "row"), "1,234,567 rows");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
    }
}
