//! What another role of the cluster serves: whoever asks the wrong one is told the right one.

use utoipa::openapi::OpenApi;

/// A role, as answers call it, and what it describes.
type Described = (&'static str, fn() -> OpenApi);

const ROLES: [Described; 3] = [
    ("an edge", cameo_edge::openapi),
    ("the gateway", cameo_gateway::openapi),
    ("the control plane", cameo_control::openapi),
];
/// Pages are not part of the description.
const PAGES: (&str, &str) = ("admin", "the control plane");

/// Paths of all roles, segment by segment, with who serves them.
pub(super) struct Elsewhere(Vec<(Vec<String>, &'static str)>);

impl Elsewhere {
    pub(super) fn new() -> Self {
        let of_role = |(role, described): Described| {
            let paths = described().paths.paths.into_keys().map(move |path| (segments(&path).collect(), role));
            paths.collect::<Vec<_>>()
        };
        Self(ROLES.into_iter().flat_map(of_role).collect())
    }

    /// Who serves a path that is not served here.
    pub(super) fn serves(&self, path: &str) -> Option<&'static str> {
        let asked: Vec<_> = segments(path).collect();
        if asked.first().is_some_and(|first| first == PAGES.0) {
            return Some(PAGES.1);
        }
        let fits = |template: &[String]| {
            template.len() == asked.len()
                && template.iter().zip(&asked).all(|(of_it, asked)| of_it.starts_with('{') || of_it == asked)
        };
        // A fixed word says more than one that may be anything.
        let fitting = self.0.iter().filter(|(template, _)| fits(template));
        fitting
            .min_by_key(|(template, _)| template.iter().filter(|part| part.starts_with('{')).count())
            .map(|(_, role)| *role)
    }
}

fn segments(path: &str) -> impl Iterator<Item = String> + '_ {
    path.split('/').filter(|part| !part.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_who_serves_it() {
        let elsewhere = Elsewhere::new();
        for (path, role) in [
            ("/v1/demo/visits", Some("an edge")),
            ("/rest/v1/profiles/thirdPartyId/x", Some("an edge")),
            ("/m2/demo/profile/update", Some("an edge")),
            ("/m2/demo/v2/profile/batchUpdate", Some("the gateway")),
            ("/v1/demo/batches/b-1", Some("the gateway")),
            ("/v1/cluster", Some("the control plane")),
            ("/v1/demo/tokens", Some("the control plane")),
            ("/demo/target/authentication/token", Some("the control plane")),
            ("/admin/c/demo/batches", Some("the control plane")),
            ("/", None),
            ("/v2/demo/visits", None),
        ] {
            assert_eq!(elsewhere.serves(path), role, "{path}");
        }
    }
}
