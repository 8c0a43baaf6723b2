//! The name of an image, taken apart.

/// An image as the engine's way to pull one wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// With registry and path.
    pub(crate) repository: String,
    /// A tag or a digest; `latest` unless the name has one, since the engine would pull all tags without.
    pub(crate) tag: String,
}

impl Image {
    /// Takes a name apart; nothing when it can't be one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_part = |part: &str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:".contains(c))
        };
        let path_from = text.rfind('/').map_or(0, |at| at + 1);
        let (repository, tag) = match (text.split_once('@'), text[path_from..].split_once(':')) {
            (Some((repository, digest)), _) => (repository, digest),
            (None, Some((_, tag))) => (&text[..text.len() - tag.len() - 1], tag),
            (None, None) => (text, "latest"),
        };
        (is_part(repository) && is_part(tag))
            .then(|| Self { repository: repository.to_owned(), tag: tag.to_owned() })
    }

    /// The whole name.
    pub(crate) fn name(&self) -> String {
        let separator = if self.tag.contains(':') { '@' } else { ':' };
        format!("{}{separator}{}", self.repository, self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_put_together() {
        for (text, repository, tag, name) in [
            ("alpine", "alpine", "latest", "alpine:latest"),
            ("alpine:3", "alpine", "3", "alpine:3"),
            ("host:5000/a/b", "host:5000/a/b", "latest", "host:5000/a/b:latest"),
            ("host:5000/a/b:c-1.2", "host:5000/a/b", "c-1.2", "host:5000/a/b:c-1.2"),
            ("a/b@sha256:00ff", "a/b", "sha256:00ff", "a/b@sha256:00ff"),
        ] {
            let image = Image::parse(text).unwrap();
            assert_eq!((&*image.repository, &*image.tag, image.name()), (repository, tag, name.to_owned()));
        }
        for text in ["", ":", "a:", ":b", "a b", "a?b", "a@", "ä", "a\n"] {
            assert_eq!(Image::parse(text), None, "{text:?}");
        }
    }
}
