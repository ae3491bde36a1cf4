//! One field of a crontab line: a set of numbers.

use std::ops::RangeInclusive;

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FieldKind {
    Minute,
    Hour,
    DayOfMonth,
    Month,
    /// 0 and 7 are Sunday.
    DayOfWeek,
}

impl FieldKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Hour => "hour",
            Self::DayOfMonth => "day of month",
            Self::Month => "month",
            Self::DayOfWeek => "day of week",
        }
    }

    /// What may be written.
    const fn bounds(self) -> RangeInclusive<u8> {
        match self {
            Self::Minute => 0..=59,
            Self::Hour => 0..=23,
            Self::DayOfMonth => 1..=31,
            Self::Month => 1..=12,
            Self::DayOfWeek => 0..=7,
        }
    }

    /// All there is: Sunday once.
    const fn all(self) -> RangeInclusive<u8> {
        match self {
            Self::DayOfWeek => 0..=6,
            _ => self.bounds(),
        }
    }

    fn named(self, text: &str) -> Option<u8> {
        let names: &[&str] = match self {
            Self::Month => &MONTHS,
            Self::DayOfWeek => &WEEKDAYS,
            _ => return None,
        };
        let place = names.iter().position(|name| name.eq_ignore_ascii_case(text))?;
        let place = u8::try_from(place).ok()?;
        Some(if self == Self::Month { place + 1 } else { place })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    kind: FieldKind,
    /// Bit n stands for the number n.
    numbers: u64,
    starred: bool,
}

impl Field {
    pub(super) fn parse(kind: FieldKind, text: &str) -> Result<Self, String> {
        let mut field = Self { kind, numbers: 0, starred: text.starts_with('*') };
        for item in text.split(',') {
            field.add(item).map_err(|reason| format!("{}: {reason}", kind.name()))?;
        }
        Ok(field)
    }

    fn add(&mut self, item: &str) -> Result<(), String> {
        let (numbers, step) = match item.split_once('/') {
            Some((numbers, step)) => (numbers, Some(self.step(step)?)),
            None => (item, None),
        };
        let range = if numbers == "*" {
            self.kind.all()
        } else if let Some((first, last)) = numbers.split_once('-') {
            let first = self.number(first)?;
            let last = match self.number(last)? {
                // "sat-sun": a range ends with the Sunday that follows.
                0 if self.kind == FieldKind::DayOfWeek && first > 0 => 7,
                last => last,
            };
            if first > last {
                return Err(format!("the range \"{numbers}\" goes backwards"));
            }
            first..=last
        } else if step.is_some() {
            return Err(format!("\"{item}\" has a step without a range; write {numbers}-{}/…", self.kind.all().end()));
        } else {
            let number = self.number(numbers)?;
            number..=number
        };
        for number in range.step_by(step.unwrap_or(1)) {
            let number = if self.kind == FieldKind::DayOfWeek { number % 7 } else { number };
            self.numbers |= 1 << number;
        }
        Ok(())
    }

    fn number(&self, text: &str) -> Result<u8, String> {
        if let Some(number) = self.kind.named(text) {
            return Ok(number);
        }
        let bounds = self.kind.bounds();
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits && bounds.contains(&number) => Ok(number),
            _ if digits => Err(format!("{text} is not from {} to {}", bounds.start(), bounds.end())),
            _ if text.is_empty() => Err("a number is missing".to_owned()),
            _ => Err(format!("\"{text}\" is not understood")),
        }
    }

    fn step(&self, text: &str) -> Result<usize, String> {
        let most = usize::from(*self.kind.all().end());
        match text.parse() {
            Ok(step) if (1..=most).contains(&step) && text.bytes().all(|b| b.is_ascii_digit()) => Ok(step),
            _ => Err(format!("\"{text}\" is not a step from 1 to {most}")),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.kind.all().all(|number| self.contains(number))
    }

    /// Whether the field says which days, in the sense of crontab(5).
    pub(super) const fn is_restricted(&self) -> bool {
        !self.starred
    }

    pub(super) const fn contains(&self, number: u8) -> bool {
        self.numbers & (1 << number) != 0
    }

    /// The numbers, each raised by `by`, separated by commas; `*` for all.
    pub(super) fn list(&self, by: u8) -> String {
        if self.is_full() {
            return "*".to_owned();
        }
        let numbers: Vec<String> =
            self.kind.all().filter(|number| self.contains(*number)).map(|number| (number + by).to_string()).collect();
        numbers.join(",")
    }
}
