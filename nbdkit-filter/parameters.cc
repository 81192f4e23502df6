// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/parameters.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace ext2cow {

const char kParametersHelp[] =
    "ext2file=/PATH|exportname  (required) The file to serve, or the export "
    "name\n"
    "                           chooses it.\n"
    "ext2cow-store=DIR          Where sessions are kept (made if missing).\n"
    "ext2cow-session=NAME       The session that every connection joins.\n"
    "ext2cow-on-disconnect=keep|commit|discard\n"
    "                           What happens to a written session at its last\n"
    "                           disconnect (default keep).\n"
    "ext2cow-isolation=serializable|snapshot\n"
    "                           The conflict rule of commits (default\n"
    "                           serializable).\n"
    "ext2cow-history=N          Past generations kept readable (default 8).\n"
    "ext2cow-max-session=SIZE   Changed bytes a session may hold.\n"
    "ext2cow-max-store=SIZE     Changed bytes all sessions may hold.\n"
    "ext2cow-expire=DURATION    Unconnected sessions are dropped after this.\n"
    "ext2cow-flush-interval=DURATION\n"
    "                           Unflushed writes are made durable after this\n"
    "                           (default 5s, 0: never).\n"
    "ext2cow-points=yes|no      Clients may open @POINT (default yes).\n"
    "ext2cow-cache=SIZE         Memory for caches (default 256M).\n"
    "ext2cow-takeover=yes|no    Take the image from a server that is gone "
    "(default\n"
    "                           no).\n"
    "ext2cow-control=PATH|none  The control socket (default "
    "DIR/control.sock).\n"
    "ext2cow-reopen=DURATION    How long an image that went away is opened "
    "again\n"
    "                           (default 60s; 0: never).\n"
    "ext2cow-stop-grace=DURATION\n"
    "                           How long a stopping server waits for clients\n"
    "                           (default 10s).\n";

absl::StatusOr<absl::Duration> ParseDuration(const std::string& text) {
  if (text == "never") return absl::InfiniteDuration();
  std::string digits = text;
  absl::Duration unit = absl::Seconds(1);
  switch (text.empty() ? '\0' : text.back()) {
    case 's':
      break;
    case 'm':
      unit = absl::Minutes(1);
      break;
    case 'h':
      unit = absl::Hours(1);
      break;
    case 'd':
      unit = absl::Hours(24);
      break;
    default:
      digits += 's';
  }
  digits.pop_back();
  uint32_t count;
  if (!absl::SimpleAtoi(digits, &count)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", text, "' is no duration: a number with s, m, h or d, or 'never'"));
  }
  return count * unit;
}

namespace {

absl::Status OneOf(const std::string& key, const std::string& value,
                   const char* words) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, "=", value, ": the value must be ", words));
}

absl::StatusOr<OnDisconnect> ParseOnDisconnect(const std::string& key,
                                               const std::string& value) {
  if (value == "keep") return OnDisconnect::kKeep;
  if (value == "commit") return OnDisconnect::kCommit;
  if (value == "discard") return OnDisconnect::kDiscard;
  return OneOf(key, value, "keep, commit or discard");
}

}  // namespace

absl::StatusOr<bool> Parameters::Take(
    const std::string& key, const std::string& value,
    const std::function<int64_t(const std::string&)>& parse_size,
    const std::function<std::string(const std::string&)>& absolute) {
  const auto size = [&](uint64_t* out) -> absl::StatusOr<bool> {
    const int64_t bytes = parse_size(value);
    if (bytes < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(key, "=", value, ": this is no size"));
    }
    *out = static_cast<uint64_t>(bytes);
    return true;
  };
  const auto duration = [&](absl::Duration* out) -> absl::StatusOr<bool> {
    auto parsed = ParseDuration(value);
    if (!parsed.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(key, ": ", std::string(parsed.status().message())));
    }
    *out = *parsed;
    return true;
  };
  if (key == "ext2file") {
    if (value != "exportname" && (value.empty() || value[0] != '/')) {
      return absl::InvalidArgumentError(absl::StrCat(
          "ext2file=", value,
          ": the value must be an absolute path inside the image, or "
          "'exportname'"));
    }
    has_file = true;
    rules.file = value == "exportname" ? "" : value;
  } else if (key == "ext2cow-store") {
    if (value.empty()) {
      return absl::InvalidArgumentError("ext2cow-store: a directory is due");
    }
    store = absolute(value);
  } else if (key == "ext2cow-session") {
    if (!IsValidName(value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("ext2cow-session=", value,
                       ": a session's name is letters, digits, '.', '_' and "
                       "'-', at most 64, "
                       "the first a letter or digit"));
    }
    rules.session = value;
  } else if (key == "ext2cow-on-disconnect") {
    auto parsed = ParseOnDisconnect(key, value);
    if (!parsed.ok()) return parsed.status();
    engine.on_disconnect = *parsed;
  } else if (key == "ext2cow-isolation") {
    const auto parsed = ParseIsolation(value);
    if (!parsed) return OneOf(key, value, "serializable or snapshot");
    engine.isolation = *parsed;
  } else if (key == "ext2cow-history") {
    if (!absl::SimpleAtoi(value, &engine.history)) {
      return OneOf(key, value, "a number of generations");
    }
  } else if (key == "ext2cow-max-session") {
    return size(&engine.max_session);
  } else if (key == "ext2cow-max-store") {
    return size(&engine.max_store);
  } else if (key == "ext2cow-cache") {
    return size(&engine.cache_bytes);
  } else if (key == "ext2cow-expire") {
    return duration(&engine.expire);
  } else if (key == "ext2cow-flush-interval") {
    return duration(&engine.flush_interval);
  } else if (key == "ext2cow-stop-grace") {
    return duration(&stop_grace);
  } else if (key == "ext2cow-reopen") {
    auto taken = duration(&reopen);
    if (value == "never") reopen = absl::ZeroDuration();
    return taken;
  } else if (key == "ext2cow-points") {
    if (value != "yes" && value != "no") return OneOf(key, value, "yes or no");
    engine.points = value == "yes";
  } else if (key == "ext2cow-takeover") {
    if (value != "yes" && value != "no") return OneOf(key, value, "yes or no");
    takeover = value == "yes";
  } else if (key == "ext2cow-control") {
    if (value.empty()) return OneOf(key, value, "a path or none");
    control = value == "none" ? value : absolute(value);
  } else {
    if (key == "cache") cache = value;
    return false;
  }
  return true;
}

absl::Status Parameters::Check() const {
  if (!has_file) {
    return absl::InvalidArgumentError(
        "ext2file=/PATH is missing: it names the file in the image to serve "
        "(or ext2file=exportname)");
  }
  return absl::OkStatus();
}

}  // namespace ext2cow
