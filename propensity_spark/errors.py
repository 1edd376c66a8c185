"""One class per failure that a caller can act on.

Every message names the thing, what was expected, what was found and what to do next.
`exit_code` is what the command line returns: 2 where the caller's own words are at fault, 1 otherwise. `then` is what whoever is paged
does about it (docs/runbook.md is made from it).
"""


class PropensityError(Exception):
    """Base of every failure that this package raises on purpose."""

    exit_code = 1
    then = ""


class ConfigurationError(PropensityError):
    """A setting is unknown, mistyped or impossible; nothing was written."""

    exit_code = 2
    then = "mend the setting that the message names, in the file that it names; run again"


class EnvironmentMissing(PropensityError):
    """Java, a jar or a credential that the run needs is not there."""

    exit_code = 2
    then = "install or provide what the message names (`make setup`; a secret; a variable of `.env.example`); run again"


class CatalogMissing(PropensityError):
    """The Unity Catalog schema that holds the tables does not exist or may not be used."""

    exit_code = 2
    then = "have the catalog made and granted, deploy the bundle, run again"


class TableMissing(PropensityError):
    """A stage reads a table that no earlier stage has written yet."""

    then = "run the line from the stage that writes the table: `propensity run` does so"


class TableDamaged(PropensityError):
    """The log or a data file of a table is torn, missing or older than the line left it; nothing was read from it, nothing written."""

    then = "do what the message says about that table: put a file back, or remove what can be made again. Do not delete commits by hand"


class WriteConflict(PropensityError):
    """Other writers changed a table during every attempt to write it; this write changed nothing."""

    then = "see that one run at a time works on the lake; run again"


class LakeBusy(PropensityError):
    """Another process is running a stage on this lake."""

    then = "wait for the run that the message names, or end it; run again"


class NoRoom(PropensityError):
    """A disk is full. What was complete before stays as it was."""

    then = "make room (`propensity vacuum`, old reports), run again"


class FitFailed(PropensityError):
    """The distributed fit failed at every attempt, or was not done by its deadline."""

    then = "look at the cluster's lost workers; raise `train.deadline_seconds` or the workers' memory; run again"


class NotReproducible(PropensityError):
    """A model version cannot be made again: a table version it was made from is gone, or other code or an older record made it."""

    then = "reproduce a version within the days for which tables remember theirs (lake.log_days), with the code that made it"


class SchemaMismatch(PropensityError):
    """A frame does not have the columns or types that its table declares."""

    then = "a stage and `schemas.py` disagree after a change of code: mend the frame, or the declared table"


class TableRefused(PropensityError):
    """The table given to `propensity table` cannot be used as it is; nothing was trained and nothing scored."""

    then = "mend the table, or name the right columns, as the message says; run again"


class SourceMissing(PropensityError):
    """A configured folder, file or feed does not exist or holds nothing at all."""

    then = "check `path` and `pattern` of the source, and whether the delivery came; run again"


class FeedError(PropensityError):
    """The market feed gave an answer that cannot be trusted or could not be had before the deadline."""

    then = "nothing is short: the pages that came are kept. Ask the vendor when it stays; run again"


class TooManyRefused(PropensityError):
    """More files of a batch than the configured share could not be read."""

    then = "mend or remove the files that the message names, or raise `ingest.max_refused_share`; run again"


class RowsLost(PropensityError):
    """A table does not hold as many rows of a batch as were found in its files."""

    then = "run again: the batch is written anew. When it stays, a table is damaged"


class GateFailed(PropensityError):
    """The data gate stops the line; yesterday's published scores stay."""

    then = "open the Data Docs that the message names, look at silver/quarantine; mend the source, the rule or the limit; run again"


class RowsUnaccounted(PropensityError):
    """Valid, repeated and rejected rows do not add up to the rows delivered; nothing was written."""

    then = "put the source back that was renamed or removed from conf/ before its batch was validated; run again"


class NotUpToDate(PropensityError):
    """Gold has dates that are out of date, or none at all, so that one column cannot be added to them."""

    then = "run `propensity features` first; with new code it computes every date anew, new features included"


class NotEnoughHistory(PropensityError):
    """The label or the split needs dates that the lake does not cover."""

    then = "wait for, or load, the dates that the message names; or shorten `label.horizon_days` or the split"


class OneClassOnly(PropensityError):
    """The label has only zeros or only ones in a slice that needs both."""

    then = "check `label.event_types` and whether purchases arrive; the message names the slice"


class FeatureMismatch(PropensityError):
    """The model and the feature table do not know the same features."""

    then = "train again with these features, or score with a version of the code that the model was trained on"


class ChallengerRefused(PropensityError):
    """The challenger did not pass the gates of evaluate; the champion, if there is one, stays."""

    then = "read the gates in its report. Nothing changed: the champion goes on scoring"


class WrongVersion(PropensityError):
    """The installed package is not the version that the job was deployed with."""

    exit_code = 2
    then = "deploy the bundle again, so that the wheel is the one its job names"


class NoChampion(PropensityError):
    """Nothing has been promoted yet, so nothing can be scored."""

    then = "run label, train and evaluate once; a challenger that fails a gate is named in the report"


class NotScored(PropensityError):
    """The user, or the pair, has no score on a date that is to be explained."""

    then = "choose a date on which the user was scored: `_CURRENT` and gold/scores have them"


class NotEnoughUsers(PropensityError):
    """An experiment has no users to plan with, or none in one of its arms."""

    then = "choose another segment or date, or a larger share; the message says how many users there are"


class NothingToPublish(PropensityError):
    """There is not one score for the date; what was published before stays."""

    then = "run score for the date, and see why it had no candidate"


class PublishedRunInvalid(PropensityError):
    """A published run does not agree with its manifest, or there is none."""

    then = "publish the date again, which mends it, or `propensity rollback`; find out who wrote there"


class PublishConflict(PropensityError):
    """Somebody else moved `_CURRENT` while this run was being published."""

    then = "another publisher won. Run again when yours is the one that should count"


class NoEarlierRun(PropensityError):
    """There is no run of the date that `_CURRENT` could be pointed back to."""

    then = "publish the date again from the lake: `propensity publish --as-of D`"


class NoEarlierChampion(PropensityError):
    """There is no version of the model that could become champion again."""

    then = "name a version that was champion once with --to, or train a new one: `propensity run --stages label,train,evaluate`"


class KeyChanged(PropensityError):
    """The lake was made with another privacy key, or with users called by another kind of name."""

    exit_code = 2
    then = "give the key that the lake was made with; with a new one, make a new lake"


class PersonRemains(PropensityError):
    """Something of an erased person is still there, or it is too early to prove that nothing is."""

    then = "do what the message lists; run `propensity forget` again, and with `--purge` a week later"


class AlertNotDelivered(PropensityError):
    """An alert did not reach its channel; it is recorded as failed and tried again by later runs. The line goes on."""

    then = "check the channel's address and secret; the next run sends it"
