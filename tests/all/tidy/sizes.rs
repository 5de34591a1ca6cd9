//! Files and functions that a reader can hold in mind. A ratchet: what is over the bound is listed with its size,
//! may shrink, and may not grow.

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use super::{Source, complain, rust_sources, sources};

const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 60;

/// Files over the bound, with the lines that they have today and why they are long.
const LONG_FILES: [(&str, usize, &str); 0] = [];

/// Functions over the bound (`path::name`), with the lines that they have today and why they are long.
const LONG_FUNCTIONS: [(&str, usize, &str); 0] = [];

/// Holds every measured size to the bound, or to the ratchet's entry for it.
fn hold(sizes: &[(String, usize)], max: usize, ratchet: &[(&str, usize, &str)]) -> Vec<String> {
    let entry = |name: &str| ratchet.iter().find(|(listed, _, _)| *listed == name);
    let mut complaints = Vec::new();
    for (name, lines) in sizes {
        let allowed = entry(name).map_or(max, |(_, lines, _)| *lines);
        if *lines > allowed {
            complaints.push(format!("{name}: {lines} lines, at most {allowed}"));
        }
    }
    for (name, listed, _) in ratchet {
        let now = sizes.iter().filter(|(found, _)| found == name).map(|(_, lines)| *lines).max().unwrap_or(0);
        if now <= max {
            complaints.push(format!("{name}: {now} lines now, take it off the list"));
        } else if now + 10 < *listed {
            complaints.push(format!("{name}: shrank from {listed} to {now}, lower the entry"));
        }
    }
    complaints
}

#[test]
fn files_stay_readable() {
    let lines = |source: Source| (source.path, source.text.lines().count());
    let sizes: Vec<_> = sources(&["rs", "cu", "cuh", "cpp", "h"]).into_iter().map(lines).collect();
    complain("files over the bound:", &hold(&sizes, FILE_LINES_MAX, &LONG_FILES));
}

/// Collects every function's name and lines, nested ones included.
struct Functions<'a> {
    path: &'a str,
    found: Vec<(String, usize)>,
}

impl Functions<'_> {
    fn add(&mut self, name: &syn::Ident, span: Span) {
        let lines = span.end().line - span.start().line + 1;
        self.found.push((format!("{}::{name}", self.path), lines));
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.add(&item.sig.ident, item.block.span());
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.add(&item.sig.ident, item.block.span());
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.add(&item.sig.ident, block.span());
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[test]
fn functions_stay_readable() {
    let mut sizes = Vec::new();
    for source in rust_sources() {
        let file = syn::parse_file(&source.text).unwrap_or_else(|error| panic!("{}: {error}", source.path));
        let mut functions = Functions { path: &source.path, found: Vec::new() };
        functions.visit_file(&file);
        sizes.append(&mut functions.found);
    }
    assert!(sizes.len() > 50, "the visitor lost the functions: {}", sizes.len());
    complain("functions over the bound:", &hold(&sizes, FUNCTION_LINES_MAX, &LONG_FUNCTIONS));
}

#[test]
fn the_ratchet_holds_both_ways() {
    let sizes = [("a".to_owned(), 70), ("b".to_owned(), 50), ("c".to_owned(), 90)];
    let over = hold(&sizes, 60, &[("a", 70, "why")]);
    assert_eq!(over, ["c: 90 lines, at most 60"]);
    let stale = hold(&sizes[..2], 60, &[("a", 99, "why"), ("b", 61, "why")]);
    assert_eq!(stale, ["a: shrank from 99 to 70, lower the entry", "b: 50 lines now, take it off the list"]);
}
