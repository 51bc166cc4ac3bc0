//! containerd's filter syntax (`pkg/filters`, v2.4): what List and ListStatuses select by.
//!
//! A filter is a list of selectors with commas between them, all of which must hold; of several filters
//! one must. A selector is a field path with dots, then nothing (the field is there), or `==`, `!=` or `~=`
//! (a regular expression) and a value. A name or value may be quoted like a Go string; an expression also
//! with `/` or `|` for quotes.

use regex::{Regex, RegexBuilder};

/// Bounds what a filter's expression costs.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// Filters, one of which must match; without any, everything does.
#[derive(Debug)]
pub(super) struct Filters(Vec<Vec<Selector>>);

#[derive(Debug)]
struct Selector {
    path: Vec<String>,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    NotEqual(String),
    Matches(Regex),
}

impl Filters {
    /// # Errors
    /// What is wrong, and where. An expression that is none is an error too (containerd lets it match nothing).
    pub(super) fn parse(filters: &[String]) -> Result<Self, String> {
        let parse = |text: &String| {
            let mut parser = Parser { text, at: 0 };
            parser.selectors().map_err(|what| format!("filter {text:?}: {what} at byte {}", parser.at))
        };
        filters.iter().map(parse).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a thing passes; `field` gives its fields.
    pub(super) fn match_field(&self, field: impl Fn(&[String]) -> Option<String>) -> bool {
        self.0.is_empty() || self.0.iter().any(|selectors| selectors.iter().all(|selector| selector.holds(&field)))
    }
}

impl Selector {
    /// A field that is not there has no value: not equal to any, and empty for an expression.
    fn holds(&self, field: impl Fn(&[String]) -> Option<String>) -> bool {
        let value = field(&self.path);
        match &self.test {
            Test::Present => value.is_some(),
            Test::Equal(wanted) => value.as_ref() == Some(wanted),
            Test::NotEqual(unwanted) => value.unwrap_or_default() != *unwanted,
            Test::Matches(expression) => expression.is_match(&value.unwrap_or_default()),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) -> &str {
        let from = self.at;
        while self.peek().is_some_and(&wanted) {
            self.take();
        }
        &self.text[from..self.at]
    }

    fn skip_spaces(&mut self) {
        self.take_while(char::is_whitespace);
    }

    /// The empty filter matches everything.
    fn selectors(&mut self) -> Result<Vec<Selector>, String> {
        let mut selectors = Vec::new();
        if self.text.is_empty() {
            return Ok(selectors);
        }
        loop {
            selectors.push(self.selector()?);
            match self.peek() {
                None => return Ok(selectors),
                Some(',') => drop(self.take()),
                Some(other) => return Err(format!("unexpected {other:?}")),
            }
        }
    }

    fn selector(&mut self) -> Result<Selector, String> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.take();
            path.push(self.field()?);
        }
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Selector { path, test: Test::Present });
        }
        self.skip_spaces();
        let test = match self.take_while(|next| matches!(next, '=' | '!' | '~')) {
            "==" => Test::Equal(self.value(&['"'])?),
            "!=" => Test::NotEqual(self.value(&['"'])?),
            "~=" => Test::Matches(compile(&self.value(&['"', '/', '|'])?)?),
            _ => return Err("want ==, != or ~=".to_owned()),
        };
        Ok(Selector { path, test })
    }

    fn field(&mut self) -> Result<String, String> {
        self.skip_spaces();
        if self.peek() == Some('"') {
            return self.quoted();
        }
        match self.take_while(|next| next.is_ascii_alphanumeric() || next == '_') {
            "" => Err("want a field".to_owned()),
            field => Ok(field.to_owned()),
        }
    }

    fn value(&mut self, quotes: &[char]) -> Result<String, String> {
        self.skip_spaces();
        match self.peek() {
            Some(quote) if quotes.contains(&quote) => self.quoted(),
            None | Some('"' | '/' | '|' | ',' | '.' | '=' | '!' | '~') => {
                Err("want a value; quote it where it begins with a mark".to_owned())
            }
            Some(_) => Ok(self.take_while(|next| next != ',' && !next.is_whitespace() && !next.is_control()).to_owned()),
        }
    }

    /// A Go string between two of the character that stands here.
    fn quoted(&mut self) -> Result<String, String> {
        let quote = self.take();
        let mut bytes = Vec::new();
        loop {
            match self.take() {
                None | Some('\n' | '\0') => return Err("the quote is not closed".to_owned()),
                next if next == quote => return String::from_utf8(bytes).map_err(|_| "the quoted text is not UTF-8".to_owned()),
                Some('\\') => self.escape(quote, &mut bytes)?,
                Some(next) => bytes.extend_from_slice(next.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    fn escape(&mut self, quote: Option<char>, bytes: &mut Vec<u8>) -> Result<(), String> {
        let next = self.take();
        match next {
            Some('a') => bytes.push(0x07),
            Some('b') => bytes.push(0x08),
            Some('f') => bytes.push(0x0c),
            Some('n') => bytes.push(b'\n'),
            Some('r') => bytes.push(b'\r'),
            Some('t') => bytes.push(b'\t'),
            Some('v') => bytes.push(0x0b),
            Some('\\') => bytes.push(b'\\'),
            Some('x') => bytes.push(self.byte(16, 2)?),
            Some('0'..='7') => {
                self.at -= 1;
                bytes.push(self.byte(8, 3)?);
            }
            Some(unicode @ ('u' | 'U')) => {
                let code = self.number(16, if unicode == 'u' { 4 } else { 8 })?;
                let decoded = char::from_u32(code).ok_or("no such character")?;
                bytes.extend_from_slice(decoded.encode_utf8(&mut [0; 4]).as_bytes());
            }
            _ if next == quote => bytes.extend(next.map(|mark| mark as u8)),
            _ => return Err("unknown escape".to_owned()),
        }
        Ok(())
    }

    fn byte(&mut self, radix: u32, digits: usize) -> Result<u8, String> {
        u8::try_from(self.number(radix, digits)?).map_err(|_| "not a byte".to_owned())
    }

    fn number(&mut self, radix: u32, digits: usize) -> Result<u32, String> {
        let text = self.text.get(self.at..self.at + digits).filter(|text| text.chars().all(|digit| digit.is_digit(radix)));
        self.at += if text.is_some() { digits } else { 0 };
        text.and_then(|text| u32::from_str_radix(text, radix).ok()).ok_or_else(|| format!("want {digits} digits"))
    }
}

fn compile(expression: &str) -> Result<Regex, String> {
    RegexBuilder::new(expression).size_limit(MAX_REGEX_BYTES).build().map_err(|_| format!("{expression:?} is no regular expression"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filters: &[&str]) -> Result<bool, String> {
        let field = |path: &[String]| match path.join(".").as_str() {
            "digest" => Some("sha256:abc".to_owned()),
            "labels.k" => Some("v 1,\"".to_owned()),
            "labels.containerd.io/gc.root" => Some("now".to_owned()),
            "labels.tab" => Some("a\tb".to_owned()),
            _ => None,
        };
        let filters: Vec<String> = filters.iter().map(|&text| text.to_owned()).collect();
        Ok(Filters::parse(&filters)?.match_field(field))
    }

    #[test]
    fn selects_as_containerd_does() {
        let passing: &[&[&str]] = &[
            &[],
            &[""],
            &["digest"],
            &["digest==sha256:abc"],
            &["digest == sha256:abc"],
            &["digest!=sha256:b"],
            &["digest~=^sha256:a"],
            &["digest~=/^sha256:[a-c]+$/"],
            &["digest~=|c$|"],
            &[r#"labels.k=="v 1,\"""#],
            &[r#"labels."containerd.io/gc.root""#],
            &[r#"labels."containerd.io/gc.root"==now,digest"#],
            &[r#"labels.tab=="a\tb""#],
            &[r#"labels.tab=="\x61\011\u0062""#],
            &["size!=5"],
            &["labels.none~=^$"],
            &["digest==x", "digest"],
        ];
        for filters in passing {
            assert_eq!(matches(filters), Ok(true), "{filters:?}");
        }
        let failing: &[&[&str]] = &[&["digest==x"], &["size"], &["size==5"], &["labels.none"], &["digest,size"], &["unknown.field==1"]];
        for filters in failing {
            assert_eq!(matches(filters), Ok(false), "{filters:?}");
        }
    }

    #[test]
    fn malformed_filters_are_errors() {
        for text in [
            ",",
            ".",
            "digest=",
            "digest=x",
            "digest==",
            "digest===x",
            "digest==x,",
            "digest==x y",
            "digest~=[",
            "labels.",
            "labels.\"k",
            r#"digest=="\q""#,
            "digest==/x/",
            "digest==\"\\x4\"",
            "digest~=\"\\",
            "digest~~x",
            "ä==1",
        ] {
            assert!(matches(&[text]).is_err(), "{text}");
        }
    }
}
