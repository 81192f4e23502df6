// SPDX-FileCopyrightText: The ext2cow authors
// SPDX-License-Identifier: LGPL-2.1-or-later
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/str_cat.h"
#include "nbdkit-filter/export_name.h"
#include "tests/fuzz/require.h"

// Input: one byte that chooses the rules, then the export name.
namespace ext2cow {
namespace {

using fuzz::Require;

void CheckRequest(const ExportRequest& request, const ExportRules& rules) {
  Require(request.session.empty() || request.point.empty(),
          "a session or a point, not both");
  Require(request.snapshot.empty() || !request.session.empty(),
          "a snapshot belongs to a session");
  Require(request.session.empty() || IsValidName(request.session),
          "the session's name is one");
  Require(request.snapshot.empty() || IsValidName(request.snapshot),
          "the snapshot's name is one");
  Require(request.path.empty()
              ? !request.point.empty() || !rules.session.empty()
              : request.path[0] == '/',
          "an absolute path, or the whole image at a point");
  if (!rules.file.empty())
    Require(request.path == rules.file, "the rule's file");
  if (!rules.session.empty()) {
    Require(request.session == rules.session, "the rule's session");
  }
}

// The export name that asks for `request`, in its canonical form.
std::string NameOf(const ExportRequest& request, const ExportRules& rules) {
  std::string subject = request.session;
  if (!request.snapshot.empty())
    absl::StrAppend(&subject, "@", request.snapshot);
  if (!request.point.empty()) subject = absl::StrCat("@", request.point);
  if (!rules.file.empty() || request.path.empty()) return subject;
  return subject.empty() ? request.path
                         : absl::StrCat(subject, ":", request.path);
}

void Fuzz(uint8_t choice, const std::string& name) {
  ExportRules rules;
  if (choice & 1) rules.file = "/disk.img";
  if (choice & 2) rules.session = "shared";
  const auto request = ParseExportName(name, rules);
  if (!request.ok()) {
    Require(absl::IsInvalidArgument(request.status()), "kInvalidArgument");
    return;
  }
  CheckRequest(*request, rules);
  if (!rules.session.empty()) return;
  const auto again = ParseExportName(NameOf(*request, rules), rules);
  Require(again.ok(), "the canonical name is a name");
  Require(again->session == request->session &&
              again->snapshot == request->snapshot &&
              again->point == request->point && again->path == request->path,
          "the canonical name asks for the same");
}

}  // namespace
}  // namespace ext2cow

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  ext2cow::Fuzz(data[0],
                std::string(reinterpret_cast<const char*>(data + 1), size - 1));
  return 0;
}
