//! A visit to send, built up field by field (design §5).

use serde::Serialize;
use serde_json::{Map, Value, json};

/// A visit. Fields that were not set are not sent.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Visit(Map<String, Value>);

impl Visit {
    /// A visit without any id: the server makes up a tntId.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A visit of the device with this tntId.
    #[must_use]
    pub fn of_tnt_id(id: &str) -> Self {
        Self::new().id("tntId", id)
    }

    /// A visit of the person with this thirdPartyId.
    #[must_use]
    pub fn of_third_party_id(id: &str) -> Self {
        Self::new().id("thirdPartyId", id)
    }

    /// Takes a visit that is JSON already.
    ///
    /// # Errors
    /// Gives the value back when it is not an object.
    pub fn from_json(value: Value) -> Result<Self, Value> {
        match value {
            Value::Object(fields) => Ok(Self(fields)),
            other => Err(other),
        }
    }

    fn with(mut self, field: &str, value: Value) -> Self {
        self.0.insert(field.into(), value);
        self
    }

    fn within(mut self, object: &str, field: &str, value: Value) -> Self {
        if let Value::Object(fields) = self.0.entry(object).or_insert_with(|| json!({})) {
            fields.insert(field.into(), value);
        }
        self
    }

    /// Adds an id: `tntId`, `thirdPartyId` or `ecid`.
    #[must_use]
    pub fn id(self, kind: &str, id: &str) -> Self {
        self.within("ids", kind, json!(id))
    }

    /// Adds an authenticated customer id with its integration code; may be called several times.
    #[must_use]
    pub fn customer_id(mut self, integration_code: &str, id: &str) -> Self {
        if let Value::Object(ids) = self.0.entry("ids").or_insert_with(|| json!({}))
            && let Value::Array(list) = ids.entry("customerIds").or_insert_with(|| json!([]))
        {
            list.push(json!({"integrationCode": integration_code, "id": id}));
        }
        self
    }

    /// Your own id of the event; with it a visit that is sent twice counts once.
    #[must_use]
    pub fn event_id(self, id: &str) -> Self {
        self.with("eventId", json!(id))
    }

    /// When it happened, in ms since 1970.
    #[must_use]
    pub fn occurred_at(self, ms: u64) -> Self {
        self.with("occurredAt", json!(ms))
    }

    /// When it happened, as RFC 3339 text.
    #[must_use]
    pub fn occurred_at_text(self, time: &str) -> Self {
        self.with("occurredAt", json!(time))
    }

    /// The session it belongs to.
    #[must_use]
    pub fn session_id(self, id: &str) -> Self {
        self.with("sessionId", json!(id))
    }

    /// A profile parameter.
    #[must_use]
    pub fn profile(self, name: &str, value: &str) -> Self {
        self.within("profile", name, json!(value))
    }

    /// An mbox parameter.
    #[must_use]
    pub fn parameter(self, name: &str, value: &str) -> Self {
        self.within("parameters", name, json!(value))
    }

    /// URL of the page.
    #[must_use]
    pub fn page(self, url: &str) -> Self {
        self.within("page", "url", json!(url))
    }

    /// Where the visitor came from.
    #[must_use]
    pub fn referrer(self, url: &str) -> Self {
        self.within("page", "referrer", json!(url))
    }

    /// Name of the place on the page.
    #[must_use]
    pub fn mbox(self, name: &str) -> Self {
        self.with("mbox", json!(name))
    }

    /// A category that was viewed; may be called several times.
    #[must_use]
    pub fn category(mut self, category: &str) -> Self {
        if let Value::Array(list) = self.0.entry("categories").or_insert_with(|| json!([])) {
            list.push(json!(category));
        }
        self
    }

    /// The visitor's user agent.
    #[must_use]
    pub fn user_agent(self, user_agent: &str) -> Self {
        self.with("userAgent", json!(user_agent))
    }

    pub(crate) fn has_event_id(&self) -> bool {
        self.event_id_text().is_some()
    }

    pub(crate) fn event_id_text(&self) -> Option<&str> {
        // Null is none: a retry would count twice.
        self.0.get("eventId").and_then(Value::as_str)
    }
}
