//! Configuration files line by line, by the grammar of `guc-file.l`. Pure.
//!
//! Bytes that are not understood are kept as they are: a file is rewritten only where it must be.

/// One line of a configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ConfLine<'a> {
    Setting {
        name: String,
        value: Vec<u8>,
    },
    Include {
        kind: IncludeKind,
        path: Vec<u8>,
    },
    /// A comment, an empty line, or one that the server would refuse.
    Other(&'a [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IncludeKind {
    File,
    FileIfExists,
    Directory,
}

impl IncludeKind {
    pub(super) const fn keyword(self) -> &'static str {
        match self {
            Self::File => "include",
            Self::FileIfExists => "include_if_exists",
            Self::Directory => "include_dir",
        }
    }
}

/// The lines of a file, each with its own bytes (without the line feed).
pub(super) fn lines(content: &[u8]) -> impl Iterator<Item = (&[u8], ConfLine<'_>)> {
    let content = content.strip_suffix(b"\n").unwrap_or(content);
    content.split(|byte| *byte == b'\n').map(|line| (line, parse(line)))
}

fn parse(line: &[u8]) -> ConfLine<'_> {
    parse_assignment(line).unwrap_or(ConfLine::Other(line))
}

fn parse_assignment(line: &[u8]) -> Option<ConfLine<'_>> {
    let line = trim(line);
    let name_end = line.iter().position(|byte| !is_name_byte(*byte)).unwrap_or(line.len());
    let (name, rest) = line.split_at_checked(name_end)?;
    if !name.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'_' || *byte >= 0x80) {
        return None;
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    let rest = trim(rest);
    let value = parse_value(trim(rest.strip_prefix(b"=").unwrap_or(rest)))?;
    let kind = match name.as_str() {
        "include" => IncludeKind::File,
        "include_if_exists" => IncludeKind::FileIfExists,
        "include_dir" => IncludeKind::Directory,
        _ => return Some(ConfLine::Setting { name, value }),
    };
    Some(ConfLine::Include { kind, path: value })
}

/// Names may be qualified: `plpgsql.variable_conflict`.
fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$') || byte >= 0x80
}

fn trim(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

/// The value that `text` begins with; nothing but a comment may follow.
fn parse_value(text: &[u8]) -> Option<Vec<u8>> {
    let (value, rest) = match text.strip_prefix(b"'") {
        Some(quoted) => unquote(quoted)?,
        None => {
            let end = text.iter().position(|byte| byte.is_ascii_whitespace() || *byte == b'#').unwrap_or(text.len());
            let (value, rest) = text.split_at_checked(end)?;
            (value.to_vec(), rest)
        }
    };
    let rest = trim(rest);
    let unquoted_nothing = !text.starts_with(b"'") && value.is_empty();
    (!unquoted_nothing && (rest.is_empty() || rest.starts_with(b"#"))).then_some(value)
}

/// What stands up to the closing quote, and what follows it (`GUC_scanstr`).
fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut rest = text;
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'\'' => match rest.strip_prefix(b"'") {
                Some(after) => {
                    value.push(b'\'');
                    rest = after;
                }
                None => return Some((value, rest)),
            },
            b'\\' => rest = unescape(rest, &mut value)?,
            other => value.push(*other),
        }
    }
}

fn unescape<'a>(text: &'a [u8], value: &mut Vec<u8>) -> Option<&'a [u8]> {
    let octal = text.iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
    if octal > 0 {
        let (digits, rest) = text.split_at_checked(octal)?;
        let code = digits.iter().fold(0_u32, |sum, digit| sum * 8 + u32::from(digit - b'0'));
        value.push(u8::try_from(code & 0xFF).unwrap_or_default());
        return Some(rest);
    }
    let (byte, rest) = text.split_first()?;
    value.push(match byte {
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        other => *other,
    });
    Some(rest)
}

/// `value` as a quoted value of a configuration file.
pub(super) fn quote(value: &[u8]) -> Vec<u8> {
    let mut text = vec![b'\''];
    for byte in value {
        match byte {
            b'\'' => text.extend_from_slice(b"''"),
            b'\\' => text.extend_from_slice(b"\\\\"),
            b'\n' => text.extend_from_slice(b"\\n"),
            b'\r' => text.extend_from_slice(b"\\r"),
            other => text.push(*other),
        }
    }
    text.push(b'\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(name: &str, value: &str) -> ConfLine<'static> {
        ConfLine::Setting { name: name.to_owned(), value: value.as_bytes().to_vec() }
    }

    #[test]
    fn reads_what_the_server_reads() {
        for (line, expected) in [
            ("port = 5432", setting("port", "5432")),
            ("  Port=5432 # comment", setting("port", "5432")),
            ("port 5432", setting("port", "5432")),
            ("shared_buffers = 128MB", setting("shared_buffers", "128MB")),
            (
                "data_directory = '/var/lib/pg'\t\t# use data in another directory",
                setting("data_directory", "/var/lib/pg"),
            ),
            ("a = 'it''s \\'one\\' \\\\ \\n \\101'", setting("a", "it's 'one' \\ \n A")),
            ("a = ''", setting("a", "")),
            ("plpgsql.variable_conflict = error", setting("plpgsql.variable_conflict", "error")),
            ("a='#'#x", setting("a", "#")),
        ] {
            assert_eq!(parse(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn reads_includes() {
        for (line, kind, path) in [
            ("include_dir = 'conf.d'", IncludeKind::Directory, "conf.d"),
            ("include 'a b.conf'", IncludeKind::File, "a b.conf"),
            ("INCLUDE_IF_EXISTS='x'", IncludeKind::FileIfExists, "x"),
        ] {
            assert_eq!(parse(line.as_bytes()), ConfLine::Include { kind, path: path.as_bytes().to_vec() });
        }
    }

    #[test]
    fn leaves_alone_what_is_no_setting() {
        for line in ["", "   ", "# port = 1", "port =", "port", "= 5", "1a = 5", "a = 'open", "a = 'x' y"] {
            assert_eq!(parse(line.as_bytes()), ConfLine::Other(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn quoted_values_are_read_back() {
        for value in ["", "it's", "a\\b", "two\nlines", "'", "\\'", "grüße"] {
            let line = [b"a = ".as_slice(), &quote(value.as_bytes())].concat();
            assert!(!line.contains(&b'\n'));
            assert_eq!(parse(&line), setting("a", value));
        }
    }

    #[test]
    fn lines_keep_their_bytes() {
        let content = b"a = 1\n\n# \xff\nb = 2";
        let raw: Vec<&[u8]> = lines(content).map(|(raw, _)| raw).collect();
        assert_eq!(raw.join(&b'\n'), content);
    }
}
