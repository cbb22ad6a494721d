package failpoint

// Point is a named point of the program. The constants are all points there are: a point that is not in the list does not compile.
type Point uint8

// The points, in the order of a change's way. The comment of a point is in its [Info].
const (
	SchemaCreated Point = iota
	SchemaMigrated
	SlotCreated
	ReliedNoted
	SlotTaken
	ReadingBegun
	Received
	Registered
	HandedOver
	BeforeReport
	Reported
	LookedUp
	BeforeConnect
	Connected
	BeforeInstall
	Installed
	BeforeBegin
	StepQueued
	BeforeAdvance
	BeforeCommit
	CommitSent
	Committed
	RoundApplied
	Flushed
	BeforeQuarantine
	Quarantined
	BeforeCheckpoint
	Checkpointed
	BeforeRaise
	Raised
	ParkNoted
	RequestTaken
	BackfillBegun
	ChunkRead
	BeforeMerge
	ChunkMerged
	PutOff
	NextPass
	SweepPageRead
	SweepMissingFound
	SweepRemoved
	BackfillFinished
	ResetBegun
	ResetSlotDropped
	ResetSlotCreated
	ResetEnded

	points // the number of points
)

// Info describes a point.
type Info struct {
	Point Point
	Name  string // PACKAGE/NAME
	Fails bool   // the point takes the action "error"
	Where string // the moment, for people
}

// All returns the points in the order of the constants.
func All() []Info {
	all := make([]Info, 0, points)
	for p := range points {
		all = append(all, p.Info())
	}
	return all
}

// String is the point's name.
func (p Point) String() string { return p.Info().Name }

// Info returns the description of the point.
func (p Point) Info() Info {
	name, fails, where := p.describe()
	return Info{Point: p, Name: name, Fails: fails, Where: where}
}

// describe is a switch and not a table: the linker drops an unused function from the program, and keeps an initialized variable.
func (p Point) describe() (name string, fails bool, where string) {
	switch p {
	case SchemaCreated:
		return "sql/schema-created", true, "the schema outflow exists, its migrations have not run"
	case SchemaMigrated:
		return "sql/schema-migrated", true, "the migrations have run"
	case SlotCreated:
		return "replication/slot-created", true, "the slot exists, outflow.source does not know the slot"
	case ReliedNoted:
		return "replication/relied-noted", true, "the facts relied on, and raised epochs, are committed to outflow.source"
	case SlotTaken:
		return "replication/slot-taken", true, "the process has the slot, and has not read the notes of the process before"
	case ReadingBegun:
		return "sink/reading-begun", true, "the reading is noted in outflow.reading, the notes of the destinations are not read"
	case Received:
		return "replication/received", true, "a message of the stream has come, and is not decoded"
	case Registered:
		return "replication/registered", true, "a transaction is registered with the tracker, its first part is not handed over"
	case HandedOver:
		return "replication/handed-over", true, "the destinations have a part of a transaction"
	case BeforeReport:
		return "replication/before-report", true, "before a standby status update"
	case Reported:
		return "replication/reported", true, "a standby status update is sent"
	case LookedUp:
		return "sink/looked-up", true, "values left in TOAST have come from the primary"
	case BeforeConnect:
		return "sink/before-connect", true, "before an external database is dialled"
	case Connected:
		return "sink/connected", true, "the login has succeeded, the metadata is not read"
	case BeforeInstall:
		return "sink/before-install", true, "the metadata lacks something; the transaction of the DDL has not begun"
	case Installed:
		return "sink/installed", true, "the metadata and the mappings' tables are committed"
	case BeforeBegin:
		return "sink/before-begin", true, "before BEGIN of an external transaction"
	case StepQueued:
		return "sink/step-queued", true, "a step of a round is queued"
	case BeforeAdvance:
		return "sink/before-advance", true, "the steps are queued, the update of the metadata is not"
	case BeforeCommit:
		return "sink/before-commit", true, "the update of the metadata is queued, COMMIT is not"
	case CommitSent:
		return "sink/commit-sent", true, "COMMIT is sent, the answer is not read"
	case Committed:
		return "sink/committed", true, "the answer to COMMIT is read, the queue holds the batch still"
	case RoundApplied:
		return "sink/round-applied", true, "the external server has executed a round of a large transaction, which stays open"
	}
	return p.describeLater()
}

// describeLater describes the points behind those of describe.
func (p Point) describeLater() (name string, fails bool, where string) {
	switch p {
	case Flushed:
		return "sink/flushed", false, "the external server has flushed batches, their tickets are not released"
	case BeforeQuarantine:
		return "sink/before-quarantine", true, "before a refused row is written to the quarantine"
	case Quarantined:
		return "sink/quarantined", true, "the external transaction has the row in the quarantine"
	case BeforeCheckpoint:
		return "sink/before-checkpoint", true, "before the statement that notes the destinations' positions"
	case Checkpointed:
		return "sink/checkpointed", true, "the positions are noted, and the reader does not know"
	case BeforeRaise:
		return "sink/before-raise", true, "before a destination's next epoch is noted"
	case Raised:
		return "sink/raised", true, "the next epoch is noted, and the process does not know"
	case ParkNoted:
		return "sink/park-noted", false, "a parking is noted, the queue is not dropped"
	case RequestTaken:
		return "sink/request-taken", false, "an operator's request is read, and not carried out"
	case BackfillBegun:
		return "sink/backfill-begun", true, "a backfill has a place, and has not read"
	case ChunkRead:
		return "sink/chunk-read", true, "a chunk is read from the primary, its horizon is ahead"
	case BeforeMerge:
		return "sink/before-merge", true, "the stream has passed the chunk's horizon"
	case ChunkMerged:
		return "sink/chunk-merged", true, "the rows and the cursor behind the rows are committed"
	case PutOff:
		return "sink/put-off", true, "a row of a chunk is refused, the cursor has not moved over the row"
	case NextPass:
		return "sink/next-pass", true, "a pass has ended with postponed rows, and the cursor of the next pass is committed"
	case SweepPageRead:
		return "sink/sweep-page-read", true, "a page of keys is read from the external database"
	case SweepMissingFound:
		return "sink/sweep-missing-found", true, "the primary has said which keys of the page exist"
	case SweepRemoved:
		return "sink/sweep-removed", true, "rows that the primary does not have are deleted, and the cursor is committed"
	case BackfillFinished:
		return "sink/backfill-finished", true, "the metadata has no cursor any more, and the process holds the backfill's place"
	case ResetBegun:
		return "replication/reset-begun", true, "--slot-reset has noted the reset, the slot is the old slot"
	case ResetSlotDropped:
		return "replication/reset-slot-dropped", true, "--slot-reset has dropped the slot"
	case ResetSlotCreated:
		return "replication/reset-slot-created", true, "--slot-reset has created the slot, the base is not settled"
	case ResetEnded:
		return "replication/reset-ended", true, "--slot-reset has settled the base"
	}
	return "", false, ""
}

// named finds a point by its name.
func named(name string) (Point, bool) {
	for p := range points {
		if p.String() == name {
			return p, true
		}
	}
	return 0, false
}
