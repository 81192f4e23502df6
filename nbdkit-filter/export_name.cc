// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include "nbdkit-filter/export_name.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace ext2cow {
namespace {

absl::Status Bad(const std::string& name, const std::string& why) {
  return absl::InvalidArgumentError(
      absl::StrCat("export name '", name, "': ", why));
}

bool IsPoint(const std::string& point) {
  const bool digits = !point.empty() && point.size() <= 20 &&
                      std::all_of(point.begin(), point.end(),
                                  [](char c) { return c >= '0' && c <= '9'; });
  return digits || point == "latest" || IsValidTag(point);
}

// "", "NAME", "NAME@SNAP" or "@POINT".
absl::Status ParseSubject(const std::string& name, const std::string& subject,
                          ExportRequest* request) {
  const size_t at = subject.find('@');
  if (at == 0) {
    request->point = subject.substr(1);
    if (IsPoint(request->point)) return absl::OkStatus();
    return Bad(name, "after '@' a generation number, a tag or 'latest' is due");
  }
  request->session = subject.substr(0, at);
  if (!IsValidName(request->session)) {
    return Bad(name,
               "a session's name is letters, digits, '.', '_' and '-', at most "
               "64, the first a letter or digit");
  }
  if (at == std::string::npos) return absl::OkStatus();
  request->snapshot = subject.substr(at + 1);
  if (IsValidName(request->snapshot)) return absl::OkStatus();
  return Bad(name, "after '@' a snapshot's name is due");
}

std::string Absolute(const std::string& path) {
  return !path.empty() && path[0] == '/' ? path : "/" + path;
}

}  // namespace

absl::StatusOr<ExportRequest> ParseExportName(const std::string& name,
                                              const ExportRules& rules) {
  ExportRequest request;
  request.path = rules.file;
  std::string subject = name;
  if (rules.file.empty()) {
    // A colon ends the subject only when what is before it can be one: file
    // names may hold colons too.
    const size_t colon = name.find(":/");
    const bool has_subject =
        colon != std::string::npos && name.find('/') > colon;
    if (has_subject) {
      subject = name.substr(0, colon);
      request.path = name.substr(colon + 1);
    } else if (!name.empty() && name[0] == '@') {
      request.path.clear();  // the whole image
    } else {
      if (name.empty()) {
        return Bad(name,
                   "it must name a file: NAME:/PATH, @POINT:/PATH or /PATH");
      }
      subject.clear();
      request.path = Absolute(name);
    }
    if (has_subject && subject.empty()) {
      return Bad(name, "before ':' a session's name or @POINT is due");
    }
  }
  if (!rules.session.empty()) {
    if (request.path.empty()) return Bad(name, "it must name a file");
    request.session = rules.session;
    return request;
  }
  if (subject.empty()) return request;
  absl::Status status = ParseSubject(name, subject, &request);
  if (!status.ok()) return status;
  return request;
}

}  // namespace ext2cow
