//! Patterns of names.

/// Whether `text` matches `pattern`, in which `*` stands for any run of characters. Greedy with one point to come back
/// to, so it takes at most the product of the two lengths.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            star = Some((star_p, star_t + 1));
            p = star_p + 1;
            t = star_t + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_star_matches_any_run(head in "[a-c]{1,4}", run in "[a-c]{0,6}", tail in "[a-c]{0,4}") {
            let (pattern, text) = (format!("{head}*{tail}"), format!("{head}{run}{tail}"));
            prop_assert!(glob(&pattern, &text));
            let other = format!("x{text}");
            prop_assert!(!glob(&pattern, &other));
        }
    }
}
