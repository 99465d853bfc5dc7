// SPDX-License-Identifier: GPL-2.0

//! Aligned tables for people.

/// A line of a table.
pub trait Row {
    /// The heads of the columns. One that begins with `>` is of numbers, which stand to the right.
    const HEAD: &'static [&'static str];

    /// As many cells as there are heads.
    fn cells(&self) -> Vec<String>;
}

/// A table of these rows, with a line for the heads.
pub fn table<R: Row>(rows: &[R]) -> String {
    let head = R::HEAD
        .iter()
        .map(|head| head.trim_start_matches('>').to_owned());
    let lines: Vec<Vec<String>> = std::iter::once(head.collect())
        .chain(rows.iter().map(Row::cells))
        .collect();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..R::HEAD.len()).map(width).collect();

    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).zip(R::HEAD);
        let padded: Vec<String> = cells
            .map(|((cell, &width), head)| match head.starts_with('>') {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            })
            .collect();
        text += padded.join("  ").trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Pair(&'static str, u32);

    impl Row for Pair {
        const HEAD: &'static [&'static str] = &["NAME", ">N", "END"];

        fn cells(&self) -> Vec<String> {
            vec![self.0.to_owned(), self.1.to_string(), String::new()]
        }
    }

    #[test]
    fn columns_are_aligned() {
        let text = table(&[Pair("a", 5), Pair("longer", 1234)]);
        assert_eq!(
            text,
            "NAME       N  END\n\
             a          5\n\
             longer  1234\n"
        );
    }

    #[test]
    fn an_empty_table_has_its_heads() {
        assert_eq!(table::<Pair>(&[]), "NAME  N  END\n");
    }
}
