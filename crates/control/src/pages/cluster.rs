//! *Cluster*: the nodes, as their heartbeats tell.

use axum::extract::{Extension, State};
use axum::response::Response;
use maud::{Markup, html};

use super::Site;
use super::gate::Viewer;
use super::layout::{Page, Place};
use super::live::{self, Look};

/// The page.
pub(super) async fn page(State(site): State<Site>, Extension(viewer): Extension<Viewer>) -> Response {
    let now = nodes(&site, &viewer).await;
    let content = live::region("/admin/cluster/events", &now);
    Page { plane: &site.plane, viewer: &viewer, title: "Cluster", place: Some(Place::Cluster), client: None }
        .show(&content)
}

async fn nodes(site: &Site, viewer: &Viewer) -> Markup {
    let cluster = match site.plane.cluster(&viewer.principal).await {
        Ok(cluster) => cluster,
        Err(problem) => return html! { p.error { (problem) } },
    };
    html! {
        p { "Revision of the control bucket: " strong { (cluster.revision) } }
        div.table { table {
            thead { tr { th { "Node" } th { "Roles" } th { "State" } th { "Lease" } th { "Revision" } th { "Lag" } th { "Profiles" } } }
            tbody {
                @for node in &cluster.nodes {
                    tr {
                        th scope="row" data-label="Node" { (node.node) " " span.hint { (node.run) } }
                        td data-label="Roles" { (node.roles.join(", ")) }
                        td data-label="State" data-state=(if node.silent { "silent" } else { "heard" }) {
                            @if node.silent { "silent: its lease is over" } @else if node.ready { "ready" } @else { "not ready" }
                        }
                        td data-label="Lease" { (node.lease_ms / 1000) " s" }
                        td data-label="Revision" { (node.applied) }
                        td data-label="Lag" { (node.lag_frames) " frames" }
                        td data-label="Profiles" { (node.profiles) }
                    }
                }
            }
        } }
    }
}

/// The nodes, as they change.
pub(super) async fn events(State(site): State<Site>, Extension(viewer): Extension<Viewer>) -> Response {
    let watched = site.clone();
    live::events(&site, &viewer.clone(), move || {
        let (site, viewer) = (watched.clone(), viewer.clone());
        async move { Look { html: nodes(&site, &viewer).await, last: false } }
    })
}
