//! The form `keyword = value`, with single quotes around values that need them.

use std::iter::Peekable;
use std::str::Chars;

use super::{ConnInfoError, Pair, Result};

type Input<'a> = Peekable<Chars<'a>>;

pub(super) fn parse(text: &str) -> Result<Vec<Pair>> {
    let mut input = text.chars().peekable();
    let mut pairs = Vec::new();
    loop {
        skip_spaces(&mut input);
        if input.peek().is_none() {
            return Ok(pairs);
        }
        let keyword = keyword(&mut input)?;
        skip_spaces(&mut input);
        if input.next_if_eq(&'=').is_none() {
            return Err(ConnInfoError::Malformed(format!("\"=\" is missing after \"{keyword}\"")));
        }
        skip_spaces(&mut input);
        let value = if input.next_if_eq(&'\'').is_some() { quoted(&mut input, &keyword)? } else { bare(&mut input) };
        pairs.push((keyword, value));
    }
}

fn skip_spaces(input: &mut Input<'_>) {
    while input.next_if(char::is_ascii_whitespace).is_some() {}
}

fn keyword(input: &mut Input<'_>) -> Result<String> {
    let mut keyword = String::new();
    while let Some(c) = input.next_if(|c| !c.is_ascii_whitespace() && *c != '=') {
        keyword.push(c);
    }
    if keyword.is_empty() { Err(ConnInfoError::Malformed("a value has no keyword".to_owned())) } else { Ok(keyword) }
}

fn bare(input: &mut Input<'_>) -> String {
    let mut value = String::new();
    while let Some(c) = input.next_if(|c| !c.is_ascii_whitespace()) {
        match c {
            '\\' => value.extend(input.next()),
            _ => value.push(c),
        }
    }
    value
}

fn quoted(input: &mut Input<'_>, keyword: &str) -> Result<String> {
    let mut value = String::new();
    while let Some(c) = input.next() {
        match c {
            '\'' => return Ok(value),
            '\\' => value.extend(input.next()),
            _ => value.push(c),
        }
    }
    Err(ConnInfoError::Malformed(format!("the quoted value of \"{keyword}\" does not end")))
}
