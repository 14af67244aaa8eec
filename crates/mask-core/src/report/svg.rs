//! What the charts share: colours, measured text, the document around a drawing.

use std::fmt::Write;

/// How many colours there are for lines.
pub(super) const COLOURS: usize = 6;

/// How much wider bold text is.
pub(super) const BOLD: f64 = 1.15;

/// Colours and fonts, for a document on its own and, once, for a page. Plain class rules rather than variables: many
/// viewers of SVG don't know those.
pub(super) const STYLE: &str = include_str!("chart.css");

/// `<svg>` around a drawing.
pub(super) fn document(width: f64, height: f64, title: &str, style: &str, body: &str) -> String {
    let style = if style.is_empty() { String::new() } else { format!("<style>{style}</style>") };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{}\">{style}{body}</svg>",
        escape(title)
    )
}

/// A line of text at `[x, y]` of its baseline; `anchor` is `start`, `middle` or `end`.
pub(super) fn text(body: &mut String, class: &str, [x, y]: [f64; 2], anchor: &str, text: &str) {
    if !text.is_empty() {
        let _ = write!(
            body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
            escape(text)
        );
    }
}

/// Escapes text for SVG and HTML; characters that XML doesn't allow become a replacement mark.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\t' | '\n' | '\r' => safe.push(' '),
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            control if control.is_control() => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}

/// How wide a text is at most, about, at a font size: the reader's font isn't known, so these are generous averages of
/// common sans-serif fonts.
pub(super) fn text_width(text: &str, size: f64) -> f64 {
    let wide = |character| match character {
        'i' | 'j' | 'l' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | '(' | ')' | '[' | ']' => 0.36,
        'f' | 'r' | 't' | 'I' | ' ' | '-' | '/' => 0.42,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '&' => 0.98,
        'A'..='Z' => 0.74,
        ' '..='~' => 0.62,
        _ => 1.05,
    };
    size * text.chars().map(wide).sum::<f64>()
}

/// `text`, cut with an ellipsis where it is wider than `width`.
pub(super) fn fitted(text: &str, size: f64, width: f64) -> String {
    if text_width(text, size) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    let mut left = width - text_width("…", size);
    for character in text.chars() {
        left -= text_width(character.encode_utf8(&mut [0; 4]), size);
        if left < 0.0 {
            break;
        }
        kept.push(character);
    }
    kept.trim_end().to_owned() + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_the_document() {
        assert_eq!(escape("<b>&\"'\u{0}\u{1b}\n"), "&lt;b&gt;&amp;&quot;&#39;\u{fffd}\u{fffd} ");
        let svg = document(1.0, 1.0, "\"><script>", "", "");
        assert!(!svg.contains("<script>"));
    }

    #[test]
    fn long_text_is_cut_to_its_room() {
        assert_eq!(fitted("short", 12.0, 100.0), "short");
        let cut = fitted(&"wide name ".repeat(9), 12.0, 100.0);
        assert!(cut.ends_with('…') && text_width(&cut, 12.0) <= 100.0 && cut.len() > 10, "{cut}");
        assert_eq!(fitted("anything", 12.0, 0.0), "…");
    }
}
