//! The engine's stream of a container's output: pieces of both streams, each behind a head of eight bytes.

use dapper_program::Lines;

/// The bytes of a head: which stream, three of no meaning, and the length of what follows, the highest byte first.
const HEAD_BYTES: usize = 8;

/// Sorts what comes in pieces, cut anywhere. Keeps nothing but a head.
pub(crate) struct Frames<'l> {
    out: Lines<'l>,
    err: Lines<'l>,
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    /// How much of the frame is still to come.
    left: usize,
}

impl<'l> Frames<'l> {
    pub(crate) fn new(out: Lines<'l>, err: Lines<'l>) -> Self {
        Self { out, err, head: [0; HEAD_BYTES], head_bytes: 0, left: 0 }
    }

    pub(crate) fn push(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            if self.left > 0 {
                let (now, rest) = piece.split_at(piece.len().min(self.left));
                let lines = if self.head[0] == 2 { &mut self.err } else { &mut self.out };
                lines.push(now);
                self.left -= now.len();
                piece = rest;
                continue;
            }
            self.head[self.head_bytes] = piece[0];
            self.head_bytes += 1;
            piece = &piece[1..];
            if self.head_bytes == HEAD_BYTES {
                self.head_bytes = 0;
                let [_, _, _, _, length @ ..] = self.head;
                self.left = u32::from_be_bytes(length) as usize;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dapper_program::{Log, Tail};

    #[test]
    fn streams_are_sorted_however_they_are_cut() {
        let frame = |stream: u8, text: &str| {
            [&[stream, 0, 0, 0][..], &u32::try_from(text.len()).unwrap().to_be_bytes(), text.as_bytes()]
                .concat()
        };
        let all =
            [frame(2, "one\ntw"), frame(1, "out 1\n"), frame(2, ""), frame(2, "o\n"), frame(1, "out 2")]
                .concat();
        let log = Log::new("run", std::iter::empty());
        for size in 1..=all.len() {
            let (out, err) = (Tail::default(), Tail::default());
            let mut frames =
                Frames::new(Lines::new(&log, "stdout", Some(&out)), Lines::new(&log, "stderr", Some(&err)));
            all.chunks(size).for_each(|piece| frames.push(piece));
            drop(frames);
            assert_eq!((out.said(), err.said()), (": out 1 | out 2".into(), ": one | two".into()), "{size}");
        }
    }
}
