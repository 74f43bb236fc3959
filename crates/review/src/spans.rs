//! Splits a text at the spans of its phrases.

/// A part of the text; `of` is the index of the phrase that it belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    pub(super) of: Option<usize>,
}

/// Splits `text` at `spans`, which are starts and ends in Unicode code points. The pieces concatenated are the whole text.
/// Also returns the indices of the spans without a piece: those outside the text, and those that overlap an earlier one.
pub(super) fn cut<'a>(text: &'a str, spans: &[(i64, i64)]) -> (Vec<Piece<'a>>, Vec<usize>) {
    // Byte offset of each code point, and of the end.
    let offsets: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let offset = |point: i64| offsets.get(usize::try_from(point).ok()?).copied();
    let mut valid: Vec<(usize, usize, usize)> = Vec::new();
    for (number, &(start, end)) in spans.iter().enumerate() {
        if let (Some(from), Some(to)) = (offset(start), offset(end))
            && from < to
        {
            valid.push((from, to, number));
        }
    }
    valid.sort_unstable();
    let mut pieces = Vec::new();
    let mut unplaced: Vec<usize> = (0..spans.len()).collect();
    let mut done = 0;
    for (from, to, number) in valid {
        if from < done {
            continue;
        }
        pieces.push(Piece { text: &text[done..from], of: None });
        pieces.push(Piece { text: &text[from..to], of: Some(number) });
        unplaced.retain(|other| *other != number);
        done = to;
    }
    pieces.push(Piece { text: &text[done..], of: None });
    pieces.retain(|piece| !piece.text.is_empty());
    (pieces, unplaced)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn spans_count_code_points() {
        let (pieces, unplaced) = cut("Ein 🧊 Schneemännchen, naß", &[(6, 20), (4, 5)]);
        let shown: Vec<_> = pieces.iter().map(|p| (p.text, p.of)).collect();
        assert_eq!(shown, [("Ein ", None), ("🧊", Some(1)), (" ", None), ("Schneemännchen", Some(0)), (", naß", None)]);
        assert!(unplaced.is_empty());
    }

    #[test]
    fn spans_that_name_no_part_get_no_piece() {
        let odd = [(-3, 2), (2, 1), (1, 1), (0, 6), (5, 5), (i64::MIN, i64::MAX), (0, 2), (1, 3), (0, 2), (4, 5)];
        let (pieces, unplaced) = cut("abcde", &odd);
        assert_eq!(unplaced, [0, 1, 2, 3, 4, 5, 7, 8]);
        assert_eq!(pieces.iter().filter_map(|p| p.of).collect::<Vec<_>>(), [6, 9]);
        assert_eq!(cut("", &[(0, 0), (0, 1)]), (vec![], vec![0, 1]));
    }

    #[test]
    fn any_spans_keep_the_text_whole() {
        let mut random = StdRng::seed_from_u64(3);
        let text = "a 🧊 gräßliche ﬁsh\u{301} — ½ Ж\n";
        for _ in 0..2000 {
            let spans: Vec<(i64, i64)> = (0..random.random_range(0..6))
                .map(|_| (random.random_range(-4..30), random.random_range(-4..30)))
                .collect();
            let (pieces, unplaced) = cut(text, &spans);
            assert_eq!(pieces.iter().map(|p| p.text).collect::<String>(), text);
            let mut all: Vec<usize> = pieces.iter().filter_map(|p| p.of).chain(unplaced).collect();
            all.sort_unstable();
            assert_eq!(all, (0..spans.len()).collect::<Vec<_>>());
        }
    }
}
