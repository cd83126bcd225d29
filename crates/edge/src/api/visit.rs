//! One visit as a caller sends it (design §5), how it is read without copying, and how it is checked.
//!
//! Unknown fields are refused by name: a typo must not lose data. Values of `profile` and `parameters` may be text,
//! numbers or true/false; all are kept as text.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use cameo_profile::event::{DeliveryContext, DeliveryData};
use cameo_profile::ids::{self, Invalid};
use cameo_profile::{AddressBuf, limits};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::identity::{SIGNATURES, Signatures};

/// Text that is borrowed from the body where it can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

/// A value, or what stands in its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Text(Cow<'a, str>),
    /// "null", "a list", "an object".
    Not(&'static str),
}

/// Fields of an object in the order they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fields<'a>(pub(crate) Vec<(Cow<'a, str>, Value<'a>)>);

/// An object by its names. What serde derives would take a list as well, its items in the order of the fields, so that
/// `[[]]` were a visit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        from.deserialize_map(ObjectVisitor(PhantomData))
    }
}

fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Object::deserialize(from).map(|Object(value)| value)
}

fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Object<T>>::deserialize(from)?.map(|Object(value)| value))
}

fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<Object<T>>::deserialize(from)?.into_iter().map(|Object(value)| value).collect())
}

/// As serde's own for `f64`, but of a wrong type it says the same in every encoding.
fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    struct NumberVisitor;
    impl Visitor<'_> for NumberVisitor {
        type Value = f64;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number")
        }
        fn visit_u64<E: Error>(self, number: u64) -> Result<f64, E> {
            Ok(number as f64)
        }
        fn visit_i64<E: Error>(self, number: i64) -> Result<f64, E> {
            Ok(number as f64)
        }
        fn visit_f64<E: Error>(self, number: f64) -> Result<f64, E> {
            Ok(number)
        }
    }
    from.deserialize_any(NumberVisitor)
}

/// A visit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct VisitRequest<'a> {
    #[serde(borrow)]
    pub(crate) event_id: Option<Text<'a>>,
    pub(crate) occurred_at: Option<Time>,
    #[serde(borrow)]
    pub(crate) session_id: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "object")]
    pub(crate) ids: Ids<'a>,
    #[serde(borrow, deserialize_with = "optional_object")]
    pub(crate) page: Option<Page<'a>>,
    #[serde(borrow)]
    pub(crate) mbox: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) parameters: Fields<'a>,
    #[serde(borrow)]
    pub(crate) profile: Fields<'a>,
    #[serde(borrow)]
    pub(crate) categories: Vec<Text<'a>>,
    #[serde(borrow, deserialize_with = "optional_object")]
    pub(crate) order: Option<OrderRequest<'a>>,
    #[serde(borrow)]
    pub(crate) user_agent: Option<Text<'a>>,
    /// Of a delivery call, which has been checked by limits of its own; not a field that callers send.
    #[serde(skip)]
    pub(crate) delivery: Option<Delivery<'a>>,
}

/// What a delivery call adds to a visit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Delivery<'a> {
    pub(crate) context: Option<DeliveryContext<'a>>,
    pub(crate) data: Option<DeliveryData<'a>>,
}

/// What the visitor is called.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Ids<'a> {
    #[serde(borrow)]
    pub(crate) tnt_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) third_party_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) ecid: Option<Text<'a>>,
    #[serde(borrow, deserialize_with = "objects")]
    pub(crate) customer_ids: Vec<CustomerId<'a>>,
    /// See `api::identity`.
    #[serde(borrow)]
    pub(crate) identity_signature: Option<Fields<'a>>,
}

/// A customer id; only authenticated ones count (TARGET_API §1).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CustomerId<'a> {
    #[serde(borrow)]
    pub(crate) id: Text<'a>,
    #[serde(borrow)]
    pub(crate) integration_code: Text<'a>,
    #[serde(default)]
    pub(crate) authenticated_state: AuthenticatedState,
}

/// What the caller knows of a customer id; another word is refused, as a typo would lose the id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AuthenticatedState {
    #[default]
    Authenticated,
    Unknown,
    LoggedOut,
}

/// Where the visit happened.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct Page<'a> {
    #[serde(borrow)]
    pub(crate) url: Option<Text<'a>>,
    #[serde(borrow)]
    pub(crate) referrer: Option<Text<'a>>,
}

/// An order placed with the visit.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct OrderRequest<'a> {
    #[serde(borrow)]
    pub(crate) id: Text<'a>,
    #[serde(default, deserialize_with = "number")]
    pub(crate) total: f64,
    #[serde(borrow, default)]
    pub(crate) product_ids: Vec<Text<'a>>,
}

/// Up to here every whole number is exact in a 64-bit float.
pub(super) const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_992.0;

/// What an event holds at most beside parameters and attributes, in bytes: URLs, ids, categories and an order at their
/// limits of characters, four bytes each, and the markers between them.
const OTHER_FIELDS_BYTES: usize = 128 << 10;

/// A time: RFC 3339 text, or ms since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) u64);

/// 9999-12-31T23:59:59.999Z: too far ahead for any check.
const FAR_AHEAD_MS: u64 = 253_402_300_799_999;

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(TextVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ValueVisitor;
        impl<'de> Visitor<'de> for ValueVisitor {
            type Value = Value<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number or true/false")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Value<'de>, E> {
                Ok(Value::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Value<'de>, E> {
                Ok(Value::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Value<'de>, E> {
                Ok(Value::Text(Cow::Borrowed(if value { "true" } else { "false" })))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Value<'de>, E> {
                Ok(Value::Text(Cow::Owned(value.to_string())))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Value<'de>, E> {
                Ok(Value::Text(Cow::Owned(value.to_string())))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Value<'de>, E> {
                // A whole number that comes as a float was written with more digits than the decoder keeps, or is a
                // rounded one already: an id must not become another id.
                Ok(if !value.is_finite() {
                    Value::Not("not a number")
                } else if value.fract() == 0.0 && value.abs() >= MAX_SAFE_INTEGER {
                    Value::Not("a number too large to be kept exactly")
                } else {
                    Value::Text(Cow::Owned(value.to_string()))
                })
            }
            fn visit_unit<E: Error>(self) -> Result<Value<'de>, E> {
                Ok(Value::Not("null"))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value<'de>, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Value::Not("a list"))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value<'de>, A::Error> {
                while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Value::Not("an object"))
            }
            fn visit_bytes<E: Error>(self, _: &[u8]) -> Result<Value<'de>, E> {
                Ok(Value::Not("binary"))
            }
        }
        from.deserialize_any(ValueVisitor)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct FieldsVisitor;
        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of names and values")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Fields<'de>, A::Error> {
                let mut fields = Vec::with_capacity(object.size_hint().unwrap_or(0).min(64));
                while let Some((Text(name), value)) = object.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }
        from.deserialize_map(FieldsVisitor)
    }
}

impl Fields<'_> {
    /// Which of two values should count, nobody could say. There are few names, so no set is made of them.
    pub(super) fn check_single(&self, section: &str) -> Result<(), Invalid> {
        for (at, (name, _)) in self.0.iter().enumerate() {
            if self.0[..at].iter().any(|(other, _)| other == name) {
                return Err(Invalid::other(format!("{section}.{}", shorten(name)), "is given more than once"));
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for AuthenticatedState {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Text(state) = Text::deserialize(from)?;
        match &*state {
            "authenticated" => Ok(Self::Authenticated),
            "unknown" => Ok(Self::Unknown),
            "logged_out" => Ok(Self::LoggedOut),
            other => Err(D::Error::custom(format!(
                "{:?} is no state; there are \"authenticated\", \"unknown\" and \"logged_out\"",
                shorten(other)
            ))),
        }
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TimeVisitor;
        impl Visitor<'_> for TimeVisitor {
            type Value = Time;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time: RFC 3339 text like 2026-08-18T17:53:39.003Z, or milliseconds since 1970")
            }
            fn visit_u64<E: Error>(self, ms: u64) -> Result<Time, E> {
                Ok(Time(ms))
            }
            fn visit_i64<E: Error>(self, ms: i64) -> Result<Time, E> {
                // MessagePack writes positive numbers as signed ones too.
                u64::try_from(ms).map(Time).map_err(|_| E::invalid_value(Unexpected::Signed(ms), &self))
            }
            fn visit_f64<E: Error>(self, ms: f64) -> Result<Time, E> {
                // JavaScript has no other numbers, and its MessagePack writes large ones as such.
                let is_whole = ms >= 0.0 && ms.fract() == 0.0 && ms < MAX_SAFE_INTEGER;
                if is_whole { Ok(Time(ms as u64)) } else { Err(E::invalid_value(Unexpected::Float(ms), &self)) }
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Time, E> {
                match text.parse::<jiff::Timestamp>() {
                    Ok(time) => {
                        u64::try_from(time.as_millisecond()).map(Time).map_err(|_| E::custom("a time before 1970"))
                    }
                    // A time all the same, within a day of the last one that jiff can hold.
                    Err(_) if is_in_last_year(text) => Ok(Time(FAR_AHEAD_MS)),
                    Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }
        from.deserialize_any(TimeVisitor)
    }
}

/// Whether a text is a time in the year 9999, with its offset.
fn is_in_last_year(text: &str) -> bool {
    jiff::fmt::temporal::Pieces::parse(text)
        .is_ok_and(|pieces| pieces.date().year() == 9999 && pieces.time().is_some() && pieces.offset().is_some())
}

fn text<'v>(value: &'v Option<Text<'_>>) -> Option<&'v str> {
    value.as_ref().map(|Text(text)| &**text)
}

impl VisitRequest<'_> {
    pub(crate) fn event_id(&self) -> Option<&str> {
        text(&self.event_id)
    }

    pub(crate) fn session_id(&self) -> Option<&str> {
        text(&self.session_id)
    }

    /// The signatures that it brings along for its ids.
    pub(super) fn signatures(&self) -> Signatures<'_> {
        let mut all = Signatures::default();
        self.ids.identity_signature.iter().for_each(|fields| all.add(fields));
        all
    }

    /// All addresses it names, home first.
    pub(crate) fn addresses(&self) -> Result<Vec<AddressBuf>, Invalid> {
        let mut all = Vec::new();
        if let Some(id) = text(&self.ids.third_party_id) {
            all.push(AddressBuf::third_party(id)?);
        }
        if self.ids.customer_ids.len() > limits::CUSTOMER_IDS {
            let problem = ids::Problem::TooMany { count: self.ids.customer_ids.len(), limit: limits::CUSTOMER_IDS };
            return Err(Invalid { field: "customerIds".into(), problem });
        }
        for customer in &self.ids.customer_ids {
            let address = AddressBuf::customer(&customer.integration_code.0, &customer.id.0)?;
            if customer.authenticated_state == AuthenticatedState::Authenticated {
                all.push(address);
            }
        }
        if let Some(id) = text(&self.ids.ecid) {
            all.push(AddressBuf::ecid(id)?);
        }
        if let Some(id) = text(&self.ids.tnt_id) {
            all.push(AddressBuf::tnt(id)?);
        }
        Ok(all)
    }

    /// Checks everything but the ids. `now_ms` bounds `occurredAt`.
    pub(crate) fn check(&self, now_ms: u64) -> Result<(), Invalid> {
        if self.delivery.is_some() {
            return Ok(());
        }
        if let Some(id) = self.event_id() {
            ids::check_text(id, limits::EVENT_ID_CHARS, |_| false, || "eventId".into())?;
        }
        if let Some(id) = self.session_id() {
            ids::check_session_id(id)?;
        }
        if let Some(signatures) = &self.ids.identity_signature {
            count("identitySignature", signatures.0.len(), SIGNATURES)?;
            signatures.check_single("identitySignature")?;
        }
        if let Some(Time(ms)) = self.occurred_at
            && ms > now_ms + limits::OCCURRED_AT_AHEAD_MS
        {
            return Err(Invalid::other("occurredAt", "is more than 5 minutes ahead of the server's clock"));
        }
        if let Some(page) = &self.page {
            for (value, field) in [(&page.url, "page.url"), (&page.referrer, "page.referrer")] {
                ids::check_length(text(value).unwrap_or_default(), limits::URL_CHARS, || field.into())?;
            }
        }
        if let Some(name) = text(&self.mbox) {
            ids::check_text(name, limits::MBOX_NAME_CHARS, |_| false, || "mbox".into())?;
        }
        ids::check_length(text(&self.user_agent).unwrap_or_default(), limits::USER_AGENT_CHARS, || "userAgent".into())?;
        count("parameters", self.parameters.0.len(), limits::MBOX_PARAMETERS)?;
        for (name, value) in &self.parameters.0 {
            let field = || format!("parameters.{}", shorten(name)).into();
            ids::check_text(name, limits::MBOX_PARAMETER_NAME_CHARS, |_| false, field)?;
            check_value(value, limits::MBOX_PARAMETER_VALUE_CHARS, field)?;
        }
        self.parameters.check_single("parameters")?;
        count("profile", self.profile.0.len(), limits::PROFILE_PARAMETERS)?;
        for (name, value) in &self.profile.0 {
            let field = || format!("profile.{}", shorten(name)).into();
            ids::check_attribute_name(name, field)?;
            check_value(value, limits::PROFILE_PARAMETER_VALUE_CHARS, field)?;
        }
        self.profile.check_single("profile")?;
        self.check_order()?;
        let categories = self.categories();
        count("categories", categories.len(), limits::CATEGORIES)?;
        for category in categories {
            ids::check_text(category, limits::CATEGORY_CHARS, |c| c == ',', || "categories".into())?;
        }
        self.check_size()
    }

    /// Fields at their limits of characters can be more bytes than an event may have.
    fn check_size(&self) -> Result<(), Invalid> {
        let fields = self.parameters.0.iter().chain(&self.profile.0).map(|(name, value)| match value {
            Value::Text(text) => name.len() + text.len(),
            Value::Not(_) => name.len(),
        });
        let bytes = fields.sum::<usize>();
        let limit = limits::EVENT_BYTES - OTHER_FIELDS_BYTES;
        if bytes > limit {
            let text = format!("and profile together are {bytes} bytes long; the limit is {limit}");
            return Err(Invalid::other("parameters", text));
        }
        Ok(())
    }

    fn check_order(&self) -> Result<(), Invalid> {
        let Some(order) = &self.order else { return Ok(()) };
        ids::check_text(&order.id.0, limits::ORDER_ID_CHARS, |_| false, || "order.id".into())?;
        if !order.total.is_finite() {
            return Err(Invalid::other("order.total", "is not a number"));
        }
        count("order.productIds", order.product_ids.len(), limits::ORDER_PRODUCTS)?;
        for Text(id) in &order.product_ids {
            ids::check_text(id, limits::PRODUCT_ID_CHARS, |_| false, || "order.productIds".into())?;
        }
        Ok(())
    }

    /// Categories viewed: those of the visit, then those of the mbox parameter `user.categoryId`, which may name
    /// several with commas between (TARGET_API §6).
    pub(crate) fn categories(&self) -> Vec<&str> {
        let named = self.parameters.0.iter().filter(|(name, _)| name == "user.categoryId");
        let texts = named.filter_map(|(_, value)| match value {
            Value::Text(text) => Some(&**text),
            Value::Not(_) => None,
        });
        let several = texts.flat_map(|text| text.split(',')).map(str::trim).filter(|category| !category.is_empty());
        self.categories.iter().map(|Text(text)| &**text).chain(several).collect()
    }
}

fn count(field: &'static str, count: usize, limit: usize) -> Result<(), Invalid> {
    if count > limit {
        return Err(Invalid { field: field.into(), problem: ids::Problem::TooMany { count, limit } });
    }
    Ok(())
}

pub(super) fn check_value(
    value: &Value<'_>,
    limit: usize,
    field: impl FnOnce() -> Cow<'static, str>,
) -> Result<(), Invalid> {
    match value {
        Value::Text(text) => ids::check_length(text, limit, field),
        Value::Not(what) => {
            Err(Invalid::other(field(), format!("must be text, a number or true/false, and is {what}")))
        }
    }
}

/// A name for an error text, of bounded length.
pub(crate) fn shorten(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(limits::ATTRIBUTE_NAME_CHARS).collect()
}
