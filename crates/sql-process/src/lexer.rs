//! What of a statement is code: strings, quoted names and comments are left alone. As PostgreSQL's own lexer has it, with
//! `standard_conforming_strings` on.

/// A piece of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// Text that goes to the server as it is.
    Plain(&'a str),
    /// A word of code: a key word, a name or a number. It goes to the server as it is.
    Word(&'a str),
    /// `:name`, without the colon.
    Placeholder(&'a str),
    /// `$1`, without the dollar.
    Parameter(&'a str),
    /// A semicolon.
    Semicolon,
    /// A string, a quoted name or a comment that does not end.
    Unended(&'static str),
}

/// Cuts a statement into pieces, which together are the statement but for the marks that the pieces stand for.
pub(crate) fn pieces(statement: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = statement;
    while !rest.is_empty() {
        let (piece, length) = next(rest);
        pieces.push(piece);
        rest = &rest[length..];
    }
    pieces
}

/// The piece at the start of `text`, which is not empty, and its length in bytes with its mark.
fn next(text: &str) -> (Piece<'_>, usize) {
    let plain = |length: usize| (Piece::Plain(&text[..length]), length);
    let ended = |length: Option<usize>, what| match length {
        Some(length) => plain(length),
        None => (Piece::Unended(what), text.len()),
    };
    let mut characters = text.chars();
    let (first, second) = (characters.next().unwrap_or_default(), characters.next().unwrap_or_default());
    match (first, second) {
        ('\'', _) => ended(quoted(text, '\'', false), "a string"),
        ('e' | 'E', '\'') => ended(quoted(&text[1..], '\'', true).map(|length| length + 1), "a string"),
        ('"', _) => ended(quoted(text, '"', false), "a quoted name"),
        ('-', '-') => plain(text.find(['\n', '\r']).unwrap_or(text.len())),
        ('/', '*') => ended(comment(text), "a comment"),
        ('$', '0'..='9') => {
            let digits = run(&text[1..], |c| c.is_ascii_digit());
            (Piece::Parameter(&text[1..=digits]), digits + 1)
        }
        ('$', _) => match dollar_tag(text) {
            Some(tag) => {
                let end = text[tag..].find(&text[..tag]).map(|at| tag + at + tag);
                ended(end, "a dollar-quoted string")
            }
            None => plain(1),
        },
        // A cast, or an assignment to an argument.
        (':', ':' | '=') => plain(2),
        (':', c) if starts_name(c) => {
            let name = run(&text[1..], |c| continues_name(c) && c != '$');
            (Piece::Placeholder(&text[1..=name]), name + 1)
        }
        (';', _) => (Piece::Semicolon, 1),
        // To its end: what looks like a dollar quote in the middle of a name is none, and neither is `e'` at the end of one.
        (c, _) if starts_name(c) || c.is_ascii_digit() => {
            let length = run(text, continues_name);
            (Piece::Word(&text[..length]), length)
        }
        (c, _) => plain(c.len_utf8()),
    }
}

/// The length of what is in quotes; a doubled quote does not end it, nor one behind a backslash where that escapes.
fn quoted(text: &str, quote: char, escapes: bool) -> Option<usize> {
    let mut characters = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = characters.next() {
        if escapes && c == '\\' {
            characters.next();
        } else if c == quote && characters.next_if(|(_, next)| *next == quote).is_none() {
            return Some(at + quote.len_utf8());
        }
    }
    None
}

/// The length of a comment in `/* */`, which may hold others.
fn comment(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    loop {
        let rest = &text.as_bytes()[at..];
        match rest {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            [_, ..] => at += 1,
            [] => return None,
        }
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The length of `$tag$`.
fn dollar_tag(text: &str) -> Option<usize> {
    let tag = run(&text[1..], |c| continues_name(c) && c != '$');
    let starts_well = tag == 0 || text[1..].starts_with(starts_name);
    (starts_well && text[1 + tag..].starts_with('$')).then_some(tag + 2)
}

fn run(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

fn starts_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

pub(crate) fn continues_name(c: char) -> bool {
    starts_name(c) || c.is_ascii_digit() || c == '$'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn placeholders(statement: &str) -> Vec<&str> {
        let found = pieces(statement).into_iter().filter_map(|piece| match piece {
            Piece::Placeholder(name) => Some(name),
            _ => None,
        });
        found.collect()
    }

    #[test]
    fn placeholders_are_found_in_code_alone() {
        for (statement, expected) in [
            ("SELECT :id, :key", vec!["id", "key"]),
            (":id", vec!["id"]),
            ("a=:id||:id", vec!["id", "id"]),
            (":id::bigint", vec!["id"]),
            ("a::text", vec![]),
            ("f(a := 1, b:=:id)", vec!["id"]),
            ("'it''s :id' || :key", vec!["key"]),
            (r"'\' || :id || '\'", vec!["id"]),
            (r"E'\':id' || :key", vec!["key"]),
            (r"e'\\' || :id", vec!["id"]),
            (r"U&'\' || :id || U&'!' UESCAPE '!'", vec!["id"]),
            (r"type'\' || :id", vec!["id"]),
            (r#""a"":id" + :key"#, vec!["key"]),
            ("$$:id$$ || :key", vec!["key"]),
            ("$tag$ $$ :id $tag$ || :key", vec!["key"]),
            ("$_1$:id$_1$", vec![]),
            ("a$b$ || :id || c$b$", vec!["id"]),
            ("1 -- :id\n+ :key", vec!["key"]),
            ("/* :id /* nested */ :id */ :key", vec!["key"]),
            ("a[1:2] + a[:id]", vec!["id"]),
            ("a[1 : n]", vec![]),
            (":id$x", vec!["id"]),
            ("x:id", vec!["id"]),
            ("'ü' || :id", vec!["id"]),
            ("- :id -:key", vec!["id", "key"]),
        ] {
            assert_eq!(placeholders(statement), expected, "{statement}");
        }
    }

    #[test]
    fn what_does_not_end_is_said() {
        for statement in ["'a", "E'a\\'", "\"a", "$$a", "$t$a$$", "/* /* */"] {
            assert!(matches!(pieces(statement).last(), Some(Piece::Unended(_))), "{statement}");
        }
        assert_eq!(pieces("-- a"), [Piece::Plain("-- a")]);
    }

    #[test]
    fn parameters_are_seen() {
        assert_eq!(pieces("$12+a$1"), [Piece::Parameter("12"), Piece::Plain("+"), Piece::Word("a$1")]);
    }

    proptest! {
        #[test]
        fn nothing_is_added_or_lost(statement in "[-:$'\"/*aE1 ;=ü\\\\\n]{0,40}") {
            let mut again = String::new();
            for piece in pieces(&statement) {
                match piece {
                    Piece::Plain(text) | Piece::Word(text) => again.push_str(text),
                    Piece::Placeholder(name) => { again.push(':'); again.push_str(name); }
                    Piece::Parameter(number) => { again.push('$'); again.push_str(number); }
                    Piece::Semicolon => again.push(';'),
                    Piece::Unended(_) => return Ok(()),
                }
            }
            prop_assert_eq!(again, statement);
        }
    }
}
