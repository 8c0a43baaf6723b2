//! The files of the page, served as they are.

/// Path, content type and text of each.
pub(crate) const FILES: &[(&str, &str, &str)] = &[
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("page/page.css")),
    ("/page.js", JAVASCRIPT, include_str!("page/page.js")),
    ("/graph.js", JAVASCRIPT, include_str!("page/graph.js")),
    ("/plot.js", JAVASCRIPT, include_str!("page/plot.js")),
    ("/letters.js", JAVASCRIPT, include_str!("page/letters.js")),
    ("/favicon.svg", "image/svg+xml", include_str!("page/favicon.svg")),
];

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
