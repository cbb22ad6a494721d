// Package failpoint names the points of the program at which a harness kills or fails the process. The build tag failpoint turns the points
// on; without the tag [Hit] and [Fail] are empty, the compiler inlines the calls away, and the program holds neither names nor actions
// (TestProgramHoldsNoFailpoints).
//
//	go build -tags failpoint -o outflow-failpoint ./cmd/outflow
//	OUTFLOW_FAILPOINTS=list outflow-failpoint
//	OUTFLOW_FAILPOINTS='sink/before-commit=kill@3,replication/received=error@2,sink/commit-sent=sleep:500ms' outflow-failpoint run ...
//
// OUTFLOW_FAILPOINTS is "list", which prints the points and ends the process with exit code 0, or a list of POINT=ACTION, separated by commas:
//
//	kill       the process gets SIGKILL
//	stop       the process gets SIGSTOP; the action ends when the process gets SIGCONT
//	panic      the goroutine panics
//	error      the point fails with an [*Error]; only points with "error" in the list take the action
//	sleep:500ms  the goroutine sleeps
//
// Behind the action @3 means the third hit only, and @3+ the third hit and all later hits; without either every hit counts. A hit is counted
// per process, over all destinations. A point or an action without a meaning ends the process with exit code 2, before the process does
// anything. A program built without the tag refuses the variable, as the program refuses every unknown OUTFLOW_ variable.
//
// OUTFLOW_FAILPOINTS_HITS names a file, to which the process appends the name of each point at the first hit, and a line POINT=ACTION before
// an action. The file tells a harness which points a run has reached. Both variables are removed from the environment at the start.
//
// Hit and Fail are safe for concurrent use: the plan does not change after the start, and hits are counted atomically.
//
// # Rejected
//
//   - Points that are always compiled in and switched off: a released program must not have a way to be killed from its environment.
//   - Hooks that tests set (func variables): the process under test is another process, and a hook cannot kill it at an exact place.
//   - Killing at random times only: the interesting places are a few instructions wide; make torture does that in addition.
package failpoint
