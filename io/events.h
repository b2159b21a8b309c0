#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace mbconv::io {

// A TensorBoard event file, FOLDER/events.out.tfevents.SECONDS.HOST.PID.mbconv (and ".1", ".2", ...
// where that exists), in TFRecord framing: file_version "brain.Event:2", a SessionLog START at
// `first_step` (a resumed run: steps from there on of an earlier attempt are dropped by readers),
// then scalars.
//
// The folder must exist. Throws Error naming path and reason. What could not be written (full disk)
// is kept for the next flush, and the file ends with a whole record.
class EventWriter {
 public:
  EventWriter(const std::string& folder, int64_t first_step);
  // Flushes; a failure is lost.
  ~EventWriter();

  const std::string& path() const;
  // Buffered; flushes now and then.
  void scalar(const std::string& tag, int64_t step, double value);
  // Hands what was written to the operating system.
  void flush();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace mbconv::io
