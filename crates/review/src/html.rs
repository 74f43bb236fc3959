//! Text from outside for HTML templates.

use maud::Render;

/// Text whose control characters, which HTML does not allow, are replaced by U+FFFD. The template escapes the rest.
pub(super) struct Text<'a>(pub(super) &'a str);

impl Render for Text<'_> {
    fn render_to(&self, buffer: &mut String) {
        if self.0.contains(is_forbidden) {
            self.0.replace(is_forbidden, "\u{fffd}").render_to(buffer);
        } else {
            self.0.render_to(buffer);
        }
    }
}

fn is_forbidden(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
}

#[cfg(test)]
mod tests {
    use maud::html;

    use super::*;

    #[test]
    fn nothing_in_text_can_end_an_element_or_an_attribute() {
        let hostile = "<script>alert(\"1\")</script>&amp;' onload='x\u{0}\r\n";
        let escaped = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;amp;' onload='x\u{fffd}\u{fffd}\n";
        let shown = html! { p title=(Text(hostile)) { (Text(hostile)) } };
        assert_eq!(shown.into_string(), format!("<p title=\"{escaped}\">{escaped}</p>"));
    }
}
