"""One class per failure that a caller can act on.

Every message names the thing, what was expected, what was found and what to do next.
`exit_code` is what the command line returns: 2 where the caller's own words are at fault, 1 otherwise.
"""


class PropensityError(Exception):
    """Base of every failure that this package raises on purpose."""

    exit_code = 1


class ConfigurationError(PropensityError):
    """A setting is unknown, mistyped or impossible; nothing was written."""

    exit_code = 2


class EnvironmentMissing(PropensityError):
    """Java, a jar or a credential that the run needs is not there."""

    exit_code = 2


class CatalogMissing(PropensityError):
    """The Unity Catalog schema that holds the tables does not exist or may not be used."""

    exit_code = 2


class TableMissing(PropensityError):
    """A stage reads a table that no earlier stage has written yet."""


class TableDamaged(PropensityError):
    """The log or a data file of a table is torn, missing or older than the line left it; nothing was read from it, nothing written."""


class WriteConflict(PropensityError):
    """Other writers changed a table during every attempt to write it; this write changed nothing."""


class LakeBusy(PropensityError):
    """Another process is running a stage on this lake."""


class NoRoom(PropensityError):
    """A disk is full. What was complete before stays as it was."""


class FitFailed(PropensityError):
    """The distributed fit failed at every attempt, or was not done by its deadline."""


class SchemaMismatch(PropensityError):
    """A frame does not have the columns or types that its table declares."""


class SourceMissing(PropensityError):
    """A configured folder, file or feed does not exist or holds nothing at all."""


class FeedError(PropensityError):
    """The market feed gave an answer that cannot be trusted or could not be had before the deadline."""


class TooManyRefused(PropensityError):
    """More files of a batch than the configured share could not be read."""


class RowsLost(PropensityError):
    """A table does not hold as many rows of a batch as were found in its files."""


class GateFailed(PropensityError):
    """The data gate stops the line; yesterday's published scores stay."""


class RowsUnaccounted(PropensityError):
    """Valid, repeated and rejected rows do not add up to the rows delivered; nothing was written."""


class NotEnoughHistory(PropensityError):
    """The label or the split needs dates that the lake does not cover."""


class OneClassOnly(PropensityError):
    """The label has only zeros or only ones in a slice that needs both."""


class FeatureMismatch(PropensityError):
    """The model and the feature table do not know the same features."""


class ChallengerRefused(PropensityError):
    """The challenger did not pass the gates of evaluate; the champion, if there is one, stays."""


class WrongVersion(PropensityError):
    """The installed package is not the version that the job was deployed with."""

    exit_code = 2


class NoChampion(PropensityError):
    """Nothing has been promoted yet, so nothing can be scored."""


class NotScored(PropensityError):
    """The user, or the pair, has no score on a date that is to be explained."""


class NotEnoughUsers(PropensityError):
    """An experiment has no users to plan with, or none in one of its arms."""


class NothingToPublish(PropensityError):
    """There is not one score for the date; what was published before stays."""


class PublishedRunInvalid(PropensityError):
    """A published run does not agree with its manifest, or there is none."""


class PublishConflict(PropensityError):
    """Somebody else moved `_CURRENT` while this run was being published."""


class NoEarlierRun(PropensityError):
    """There is no run of the date that `_CURRENT` could be pointed back to."""


class KeyChanged(PropensityError):
    """The lake was made with another privacy key, or with users called by another kind of name."""

    exit_code = 2


class PersonRemains(PropensityError):
    """Something of an erased person is still there, or it is too early to prove that nothing is."""


class AlertNotDelivered(PropensityError):
    """An alert did not reach its channel; it is recorded as failed and tried again by later runs. The line goes on."""
