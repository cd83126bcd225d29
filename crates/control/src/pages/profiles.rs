//! *Profiles*: look one up by any of its ids, see it, change it, erase it.

use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::Response;
use cameo_auth::Action;
use cameo_http::query;
use http::Method;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::gate::{Form, Viewer};
use super::layout::{Page, Place, csrf, duration, encode};
use super::{Site, contributions, layout, timeline};
use crate::plane::{Deed, Problem};
use crate::session::Flash;

/// What an id may be called, as the paths have it.
const KINDS: [(&str, &str); 4] =
    [("tnt", "tntId (mboxPC)"), ("tp", "thirdPartyId (mbox3rdPartyId)"), ("ecid", "ECID"), ("cust", "customer id")];

/// Which profile.
#[derive(Clone, Debug, Default)]
pub(super) struct Which {
    kind: String,
    /// Integration code of a customer id.
    code: String,
    id: String,
}

impl Which {
    pub(super) fn read(get: impl Fn(&str) -> String) -> Self {
        Self { kind: get("kind"), code: get("code"), id: get("id") }
    }

    /// The one that the query of a page names, for somebody who may see it; with the whole query.
    pub(super) async fn asked(
        site: &Site,
        viewer: &Viewer,
        client: &str,
        query: Option<String>,
    ) -> Result<(Self, Form), Problem> {
        site.plane.client(&viewer.principal, Action::ProfileRead, client).await?;
        let query = Form(query::pairs(query.unwrap_or_default().as_bytes()).unwrap_or_default());
        Ok((Self::read(|name| query.get(name).to_owned()), query))
    }

    fn kind(&self) -> String {
        if self.kind == "cust" { format!("cust:{}", self.code) } else { self.kind.clone() }
    }

    /// Its path on the profile API.
    pub(super) fn path(&self, client: &str) -> String {
        format!("/v1/{client}/profiles/{}/{}", encode(&self.kind()), encode(&self.id))
    }

    /// Its page.
    pub(super) fn href(&self, client: &str) -> String {
        format!("/admin/c/{client}/profiles?{}", self.query())
    }

    fn query(&self) -> String {
        format!("kind={}&code={}&id={}", encode(&self.kind), encode(&self.code), encode(&self.id))
    }

    /// For the audit log.
    pub(super) fn target(&self) -> String {
        format!("{}:{}", self.kind(), self.id)
    }

    /// What a form about it brings along.
    pub(super) fn fields(&self) -> Markup {
        html! {
            input type="hidden" name="kind" value=(self.kind);
            input type="hidden" name="code" value=(self.code);
            input type="hidden" name="id" value=(self.id);
        }
    }
}

/// The page: a form, and the profile that was asked for.
pub(super) async fn page(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let (which, query) = match Which::asked(&site, &viewer, &client, query).await {
        Ok(asked) => asked,
        Err(problem) => return layout::problem(&site.plane, &viewer, &problem),
    };
    let (as_of, after) = (query.get("asOf").to_owned(), query.get("after").to_owned());
    let (mut found, mut history) = (None, None);
    if !which.id.is_empty() {
        let at = if as_of.is_empty() { "?contributions=true".to_owned() } else { format!("?asOf={}", encode(&as_of)) };
        found = Some(site.upstream.json(Method::GET, &format!("{}{at}", which.path(&client)), None).await);
        history = Some(site.upstream.json(Method::GET, &timeline::path(&which, &client, &after), None).await);
    }
    let content = html! {
        form.search method="get" {
            div {
                label for="kind" { "Id" }
                select id="kind" name="kind" { @for (kind, text) in KINDS { option value=(kind) selected[kind == which.kind] { (text) } } }
            }
            div {
                label for="code" { "Integration code (customer ids only)" }
                input id="code" name="code" value=(which.code) autocomplete="off";
            }
            div {
                label for="id" { "Value" }
                input id="id" name="id" value=(which.id) required autocomplete="off";
            }
            div {
                label for="asOf" { "As of (log time; empty: now)" }
                input id="asOf" name="asOf" value=(as_of) placeholder="2026-08-18T17:53:39Z" autocomplete="off";
            }
            button { "Look up" }
        }
        @match &found {
            None => {}
            Some(Err(problem)) => p role="status" { (sentence(&problem.to_string())) },
            Some(Ok(profile)) => (shown(&viewer, &client, &which, &as_of, profile)),
        }
        // What has ended has a history all the same.
        @if let Some(history) = history.filter(|history| history.is_ok() || matches!(found, Some(Ok(_)))) {
            section { (timeline::shown(&which, &client, &after, &history)) }
        }
    };
    let place = Some(Place::Profiles);
    Page { plane: &site.plane, viewer: &viewer, title: "Profiles", place, client: Some(&client) }.show(&content)
}

fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

fn lifetime_left(profile: &Value) -> Option<String> {
    let end: jiff::Timestamp = profile["expiresAt"].as_str()?.parse().ok()?;
    let left = end.as_millisecond() - jiff::Timestamp::now().as_millisecond();
    Some(duration(u64::try_from(left / 1000).unwrap_or(0)))
}

fn shown(viewer: &Viewer, client: &str, which: &Which, as_of: &str, profile: &Value) -> Markup {
    let may = |action| viewer.principal.may(action, Some(client));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let none = serde_json::Map::new();
    let attributes = profile["profileAttributes"].as_object().unwrap_or(&none);
    let parts = contributions::several(profile);
    html! {
        section {
            h2 { "Profile" }
            @if !as_of.is_empty() {
                p.hint role="status" { "As it read at " (as_of) ". " a href=(which.href(client)) { "As it is now" } }
            }
            dl.facts {
                @for (name, ids) in profile["ids"].as_object().unwrap_or(&none) { dt { (name) } dd { (listed(ids)) } }
                dt { "Created" } dd { (text(&profile["createdAt"])) }
                dt { "Changed" } dd { (text(&profile["modifiedAt"])) }
                @if as_of.is_empty() {
                    dt { "Lifetime left" } dd { (lifetime_left(profile).unwrap_or_default()) " (until " (text(&profile["expiresAt"])) ")" }
                }
            }
            p { a href={ "/admin/c/" (client) "/profiles/export?" (which.query()) } download { "Export everything held (JSON)" } }
            @if !parts.is_empty() { (contributions::shown(viewer, client, which, parts, may(Action::ProfileWrite))) }
            h2 { "Attributes" }
            div.table { table.attributes {
                thead { tr { th { "Name" } th { "Value" } th { "Changed" } @if !parts.is_empty() { th { "Of" } } } }
                tbody {
                    @for (name, attribute) in attributes {
                        tr {
                            th scope="row" data-label="Name" { (name) }
                            td data-label="Value" { (text(&attribute["value"])) }
                            td data-label="Changed" { time datetime=(text(&attribute["modifiedAt"])) { (text(&attribute["modifiedAt"])) } }
                            @if !parts.is_empty() { td data-label="Of" { @if let Some(owner) = contributions::owner(parts, name) { (owner) } } }
                        }
                    }
                }
            } }
            @if as_of.is_empty() && may(Action::ProfileWrite) { (edit_form(viewer, client, which)) }
            @if as_of.is_empty() && may(Action::ProfileErase) {
                details {
                    summary { "Erase this profile" }
                    form method="post" action={ "/admin/c/" (client) "/profiles/erase" } {
                        (csrf(viewer)) (which.fields())
                        p { "It is gone at once, for every reader, and cannot be brought back." }
                        button.danger { "Erase profile" }
                    }
                }
            }
        }
    }
}

fn edit_form(viewer: &Viewer, client: &str, which: &Which) -> Markup {
    html! {
        details {
            summary { "Change an attribute" }
            form method="post" action={ "/admin/c/" (client) "/profiles/edit" } {
                (csrf(viewer)) (which.fields())
                label for="name" { "Name" }
                input id="name" name="name" required maxlength="128" autocomplete="off";
                label for="value" { "Value" }
                input id="value" name="value" autocomplete="off";
                div.buttons {
                    button name="do" value="set" { "Set" }
                    button.danger name="do" value="unset" { "Remove attribute" }
                }
            }
        }
    }
}

fn listed(ids: &Value) -> String {
    match ids {
        Value::String(id) => id.clone(),
        Value::Array(all) => all.iter().map(listed).collect::<Vec<_>>().join(", "),
        Value::Object(id) => {
            let text = |name: &str| id.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("{} ({})", text("id"), text("integrationCode"))
        }
        other => other.to_string(),
    }
}

/// Sets or removes an attribute.
pub(super) async fn edit(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    let which = Which::read(|name| form.get(name).to_owned());
    let target = which.target();
    let deed = Deed::of(Action::ProfileWrite, Some(&client)).on(&target);
    let (name, value) = (form.get("name"), form.get("value"));
    let (body, text) = if form.get("do") == "unset" {
        (json!({"unset": [name]}), format!("{name} is removed."))
    } else {
        (json!({"set": {name: value}}), format!("{name} is set."))
    };
    let done = async {
        // The client as it is, not as the path has it: what goes on upstream is made of its code.
        site.plane.client(&viewer.principal, Action::ProfileWrite, &client).await?;
        let done = site.upstream.by(&viewer.principal).json(Method::PATCH, &which.path(&client), Some(&body)).await;
        let done = done.map(|_| Flash::note(&text));
        site.plane.note(&viewer.principal, deed, done.as_ref().map(|_| Some(name.to_owned()))).await;
        done
    };
    let done: Result<_, Problem> = done.await;
    site.plane.leave_flash(&viewer.id, done.unwrap_or_else(|problem| Flash::problem(&problem)));
    layout::redirect(&which.href(&client))
}

/// Erases a profile.
pub(super) async fn erase(
    State(site): State<Site>,
    Extension(viewer): Extension<Viewer>,
    Path(client): Path<String>,
    Extension(form): Extension<Form>,
) -> Response {
    let which = Which::read(|name| form.get(name).to_owned());
    let target = which.target();
    let deed = Deed::of(Action::ProfileErase, Some(&client)).on(&target);
    let done = async {
        site.plane.client(&viewer.principal, Action::ProfileErase, &client).await?;
        let done = site
            .upstream
            .by(&viewer.principal)
            .json(Method::DELETE, &which.path(&client), None)
            .await
            .map(|_| Flash::note("The profile is erased."));
        site.plane.note(&viewer.principal, deed, done.as_ref().map(|_| None)).await;
        done
    };
    let done: Result<_, Problem> = done.await;
    site.plane.leave_flash(&viewer.id, done.unwrap_or_else(|problem| Flash::problem(&problem)));
    layout::redirect(&which.href(&client))
}
