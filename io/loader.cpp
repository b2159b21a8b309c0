#include "io/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "lib/buffer.h"
#include "lib/error.h"

namespace mbconv::io {
namespace {

// One sample of a slot: which record, and what became of it.
struct Sample {
  int64_t number;
  uint32_t record, epoch;
  std::optional<Fault> fault = {};
};

// A run of samples in preparation, at most a batch. Pictures, labels and faults belong to the jobs
// until `left` is 0.
struct Slot {
  std::vector<Sample> samples;
  size_t taken = 0;  // samples that batches have had, from the front
  size_t left = 0;   // jobs not finished
  // What is no fault of a record: too many open files, no memory.
  std::exception_ptr failure;

  bool whole() const {
    return std::ranges::none_of(samples, [](const Sample& s) { return s.fault.has_value(); });
  }
};

// A sample to prepare.
struct Job {
  size_t slot, position;
};

// Consecutive records.
struct Run {
  size_t first, count;
};

void check(const LoaderOptions& o) {
  check_sample_options(o);
  require(o.batch >= 1, "the batch size must be at least 1, got ", o.batch);
  require(o.first_sample >= 0, "the first sample must be at least 0, got ", o.first_sample);
  require(o.prefetch >= 0, "the batches to prepare ahead must be at least 0, got ", o.prefetch);
  require(o.shards >= 1 && o.shard >= 0 && o.shard < o.shards, "there is no shard ", o.shard,
          " of ", o.shards, ": shards count from 0");
}

LoaderOptions effective(LoaderOptions o) {
  check(o);
  if (!o.training) {
    o.augment = false;
    o.shuffle = Shuffle::off;
  }
  const uint64_t picture =
      sizeof(float) * 3 * static_cast<uint64_t>(o.size) * static_cast<uint64_t>(o.size);
  if (o.prefetch_bytes > 0) {
    const uint64_t most = o.prefetch_bytes / (picture * static_cast<uint64_t>(o.batch));
    o.prefetch = static_cast<int>(std::min<uint64_t>(most, static_cast<uint64_t>(o.prefetch)));
  }
  return o;
}

}  // namespace

int64_t samples_of_shard(size_t records, const LoaderOptions& o) {
  return (static_cast<int64_t>(records) - o.shard + o.shards - 1) / o.shards;
}

// Shared with the tasks that were submitted to the workers: one may run after the loader is gone,
// and then finds no job.
struct Loader::State : std::enable_shared_from_this<State> {
  State(const RecordSet& record_set, Workers& threads, const LoaderOptions& loader_options)
      : records(record_set),
        workers(threads),
        options(effective(loader_options)),
        order(records.size(),
              {options.shuffle, options.seed, options.shuffle_block, options.shuffle_window}),
        batch(static_cast<size_t>(options.batch)),
        image_values(size_t{3} * static_cast<size_t>(options.size) *
                     static_cast<size_t>(options.size)),
        part(samples_of_shard(records.size(), options)),
        ring(static_cast<size_t>(options.prefetch) + 1),
        images(ring.size() * batch * image_values * sizeof(float)),
        labels(ring.size() * batch),
        next_sample(options.first_sample),
        cursor(options.first_sample),
        bad(options.known_bad.begin(), options.known_bad.end()) {
    require(part > 0, "shard ", options.shard, " of ", options.shards,
            " would be empty: there are only ", records.size(), " records");
    const size_t block = options.shuffle_block;
    const size_t blocks = (options.shuffle_window + block - 1) / block;
    if (options.shuffle == Shuffle::block) records.keep_inflated(2 * blocks, block);
  }

  const RecordSet& records;
  Workers& workers;
  const LoaderOptions options;
  EpochOrder order;
  const size_t batch;
  const size_t image_values;  // of one picture
  const int64_t part;         // samples of this process in an epoch, at least 1

  std::mutex mutex;
  std::condition_variable finished;  // a slot, or with no job left the last running one
  // Guarded by `mutex`, as are the members of the slots.
  std::deque<Job> jobs;        // not begun, in the order of samples
  std::deque<Run> to_inflate;  // where no job is left
  int running = 0;
  std::vector<Slot> ring;

  Buffer images;                // [ring, batch, size, size, 3]
  std::vector<int32_t> labels;  // [ring, batch]

  // Touched by the thread that calls next() alone.
  size_t current = 0;   // the slot that holds the next sample to hand out
  bool held = false;    // whether the caller has the slot before it
  int64_t next_sample;  // the next to be scheduled
  int64_t cursor;       // the next to be handed out
  size_t gathered = 0;  // pictures in `gathered_images`, while a batch is gathered
  Buffer gathered_images;
  std::vector<int32_t> gathered_labels;
  std::set<uint32_t> bad;            // numbers of bad records
  std::vector<BadRecord> fresh_bad;  // not told yet
  int64_t bad_in_a_row = 0;
  double wait_seconds = 0;

  size_t place(size_t slot, size_t position) const { return slot * batch + position; }
  float* image(size_t slot, size_t position) const {
    return images.as<float>() + place(slot, position) * image_values;
  }
  // Whether a validation pass has no sample after this one.
  bool last(const Sample& sample) const { return !options.training && sample.number + 1 == part; }

  Sample sample(int64_t number);
  size_t count_to_schedule() const;
  void schedule(size_t slot);
  void prepare(size_t slot, size_t position);
  void have_inflated(Run run);
  void run_one();
  void run_job(std::unique_lock<std::mutex>& lock);
  Slot& wait_for(size_t index);
  void note_bad(const Sample& sample);
  void take(Slot& slot, size_t index);
  Batch whole_slot();
  Batch gather();
  Batch next();
};

Sample Loader::State::sample(int64_t number) {
  const auto count = static_cast<int64_t>(records.size());
  const int64_t common = number * options.shards + options.shard;
  const int64_t epoch = common / count;
  const auto position = static_cast<size_t>(common % count);
  const auto [first, run] = order.upcoming(epoch, position);
  if (run > 0) {
    records.will_need(first, run);
    if (records.inflates()) have_inflated({first, run});
  }
  return {number, order.record(epoch, position), static_cast<uint32_t>(epoch)};
}

// Has a run inflated by a thread that finds nothing else to do; with one thread nobody would.
void Loader::State::have_inflated(Run run) {
  if (workers.threads() == 1) return;
  {
    const std::lock_guard lock(mutex);
    to_inflate.push_back(run);
  }
  workers.submit([state = shared_from_this()] { state->run_one(); });
}

// A batch, or after bad samples as many as make all that is ahead whole batches again: then slots
// are batches, and none is copied.
size_t Loader::State::count_to_schedule() const {
  size_t ahead = gathered;
  for (const Slot& slot : ring) ahead += slot.samples.size() - slot.taken;
  const size_t count = batch - ahead % batch;
  if (options.training) return count;
  return static_cast<size_t>(
      std::clamp<int64_t>(part - next_sample, 0, static_cast<int64_t>(count)));
}

// Has the next samples prepared in `slot`, beside whatever the workers do. All that the slot held
// has been taken.
void Loader::State::schedule(size_t slot) {
  const size_t count = count_to_schedule();
  Slot fresh;
  for (size_t i = 0; i < count; ++i) fresh.samples.push_back(sample(next_sample++));
  fresh.left = count;
  {
    const std::lock_guard lock(mutex);
    ring[slot] = std::move(fresh);
    for (size_t i = 0; i < count; ++i) jobs.push_back({slot, i});
  }
  if (workers.threads() == 1) return;
  // A task takes any job, and finds none if the thread in next() was faster.
  for (size_t i = 0; i < count; ++i) {
    workers.submit([state = shared_from_this()] { state->run_one(); });
  }
}

void Loader::State::prepare(size_t slot, size_t position) {
  thread_local std::vector<std::byte> record;
  Sample& s = ring[slot].samples[position];
  try {
    records.read(s.record, record);
  } catch (const DamagedRecord& e) {
    s.fault = e.fault();
    return;
  }
  try {
    labels[place(slot, position)] =
        prepare_sample(record, s.epoch, s.record, options, image(slot, position));
  } catch (const Error& e) {
    s.fault = Fault{e.what(), {}};
  }
}

// Runs a job, else inflates ahead, if there is either.
void Loader::State::run_one() {
  std::unique_lock lock(mutex);
  if (!jobs.empty()) return run_job(lock);
  if (to_inflate.empty()) return;
  const Run run = to_inflate.front();
  to_inflate.pop_front();
  ++running;
  lock.unlock();
  records.inflate_ahead(run.first, run.count);
  lock.lock();
  --running;
  if (running == 0 && jobs.empty()) finished.notify_all();
}

// Takes a job and runs it. `lock` holds the mutex, before and after.
void Loader::State::run_job(std::unique_lock<std::mutex>& lock) {
  const Job job = jobs.front();
  jobs.pop_front();
  ++running;
  lock.unlock();
  std::exception_ptr failure;
  try {
    prepare(job.slot, job.position);
  } catch (...) {
    failure = std::current_exception();
  }
  lock.lock();
  --running;
  Slot& slot = ring[job.slot];
  --slot.left;
  if (failure) slot.failure = failure;
  if (slot.left == 0 || (running == 0 && jobs.empty())) finished.notify_all();
}

// Runs jobs until those of a slot are done, and sleeps only where other threads have taken all.
// Then nobody else touches it.
Slot& Loader::State::wait_for(size_t index) {
  using Clock = std::chrono::steady_clock;
  std::unique_lock lock(mutex);
  Slot& slot = ring[index];
  if (slot.left > 0) {
    const Clock::time_point start = Clock::now();
    while (slot.left > 0) {
      if (jobs.empty()) {
        finished.wait(lock);
      } else {
        run_job(lock);
      }
    }
    wait_seconds += std::chrono::duration<double>(Clock::now() - start).count();
  }
  if (slot.failure) std::rethrow_exception(std::exchange(slot.failure, nullptr));
  return slot;
}

void Loader::State::note_bad(const Sample& s) {
  BadRecord record = make_bad_record(records, s.record, *s.fault);
  const std::string text = record.text(records);
  if (bad.insert(s.record).second) fresh_bad.push_back(std::move(record));
  const auto count = static_cast<int64_t>(bad.size());
  // Twice as many in training: then they hold a whole epoch.
  require(++bad_in_a_row < (options.training ? 2 * part : part), "none of the ", part,
          " records is usable; the last: ", text);
  const BadLimit& limit = options.max_bad;
  const int64_t met = std::min(part, std::max<int64_t>(s.number + 1, 1000));
  const bool many = limit.count >= 0
                        ? count > limit.count
                        : static_cast<double>(count) > limit.share * static_cast<double>(met);
  require(!many, "too many bad records: ", count, " of the first ", std::min(part, s.number + 1),
          "; the last: ", text);
}

// Hands out all samples of the slot up to a whole batch, the good ones as copies.
void Loader::State::take(Slot& slot, size_t index) {
  for (; slot.taken < slot.samples.size() && gathered < batch; ++slot.taken) {
    const Sample& s = slot.samples[slot.taken];
    cursor = s.number + 1;
    if (s.fault) {
      note_bad(s);
      continue;
    }
    bad_in_a_row = 0;
    std::copy_n(image(index, slot.taken), image_values,
                gathered_images.as<float>() + gathered * image_values);
    gathered_labels[gathered] = labels[place(index, slot.taken)];
    ++gathered;
  }
}

// A batch from wherever its samples lie.
Batch Loader::State::gather() {
  if (gathered_labels.empty()) {
    gathered_images = Buffer(batch * image_values * sizeof(float));
    gathered_labels.resize(batch);
  }
  Batch result;
  result.first_sample = cursor;
  gathered = 0;
  while (gathered < batch && !ring[current].samples.empty()) {
    Slot& slot = wait_for(current);
    take(slot, current);
    if (slot.taken < slot.samples.size()) break;
    schedule(current);
    current = (current + 1) % ring.size();
  }
  result.next_sample = cursor;
  result.images = {gathered_images.as<float>(), gathered * image_values};
  result.labels = {gathered_labels.data(), gathered};
  result.count = static_cast<int>(std::exchange(gathered, 0));
  return result;
}

// The slot as it is, held by the caller until the next call.
Batch Loader::State::whole_slot() {
  const size_t index = current;
  Slot& slot = ring[index];
  const size_t count = slot.samples.size();
  slot.taken = count;
  held = true;
  current = (index + 1) % ring.size();
  if (count == 0) return {{}, {}, 0, cursor, cursor};
  bad_in_a_row = 0;
  cursor = slot.samples.back().number + 1;
  return {.images = {image(index, 0), count * image_values},
          .labels = {labels.data() + place(index, 0), count},
          .count = static_cast<int>(count),
          .first_sample = slot.samples.front().number,
          .next_sample = cursor};
}

Batch Loader::State::next() {
  if (std::exchange(held, false)) schedule((current + ring.size() - 1) % ring.size());
  Slot& slot = wait_for(current);
  const bool strict = options.on_bad_record == FaultPolicy::strict;
  const bool is_batch = slot.taken == 0 && (slot.samples.size() == batch || slot.samples.empty() ||
                                            last(slot.samples.back()));
  if (strict || (is_batch && slot.whole())) {
    const Batch result = whole_slot();
    for (const Sample& s : slot.samples)
      if (s.fault) throw DamagedRecord(records.describe(s.record), *s.fault);
    return result;
  }
  return gather();
}

Loader::Loader(const RecordSet& records, Workers& workers, const LoaderOptions& options) {
  require(records.size() > 0, "there are no records to load");
  state_ = std::make_shared<State>(records, workers, options);
  for (size_t slot = 0; slot < state_->ring.size(); ++slot) state_->schedule(slot);
}

Loader::~Loader() {
  State& s = *state_;
  std::unique_lock lock(s.mutex);
  s.jobs.clear();
  s.to_inflate.clear();
  s.finished.wait(lock, [&s] { return s.running == 0; });
  s.images = Buffer();  // tasks that have not run yet keep the rest
}

Batch Loader::next() {
  return state_->next();
}

double Loader::take_wait_seconds() {
  return std::exchange(state_->wait_seconds, 0.0);
}

std::vector<BadRecord> Loader::take_bad_records() {
  return std::exchange(state_->fresh_bad, {});
}

std::vector<uint32_t> Loader::bad_records() const {
  return {state_->bad.begin(), state_->bad.end()};
}

int Loader::prefetch() const {
  return state_->options.prefetch;
}

}  // namespace mbconv::io
